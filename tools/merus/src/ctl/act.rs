//! Commands that change something.

use super::table::bytes;
use super::{Create, OfVm, Session, equip, json, say, setting};
use config::image::Raw;
use config::spec::key;
use merus_client::upload::{Payload as Upload, Uploaded};
use merus_client::{Error, kernel, life};
use proto::{Call, Hash, NewVm, Payload, Target};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

/// Where a VM's payload comes from, as it is written on the command line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    Boot(String),
    /// A SHA-256 or its beginning.
    Hash(String),
    File(PathBuf),
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("boot", name)) if !name.is_empty() => Ok(Self::Boot(name.into())),
            Some(("sha256", hash)) if is_hash(hash) => Ok(Self::Hash(hash.to_lowercase())),
            Some(("boot" | "sha256", _)) => {
                Err(format!("\"{text}\" is no payload; write boot:NAME, sha256:HEX or a file"))
            }
            _ if text.is_empty() => Err("a payload has a name; write boot:NAME, sha256:HEX or a file".into()),
            _ => Ok(Self::File(text.into())),
        }
    }
}

fn is_hash(text: &str) -> bool {
    (4..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Uploads with a bar on a terminal; what to tell of it.
fn upload(s: &mut Session, mut payload: Upload) -> Result<(Uploaded, String), Error> {
    let bar = crate::images::bar(payload.size, !s.json);
    bar.set_message(payload.name.clone());
    let start = Instant::now();
    let mut first = None;
    let done = payload.send(&mut s.client, |there| {
        if first.is_none() {
            first = Some(there);
            bar.reset_eta();
        }
        bar.set_position(there);
    });
    bar.finish_and_clear();
    let done = done?;
    let (name, seconds) = (&payload.name, start.elapsed().as_secs_f64());
    let text = match done.sent {
        0 => format!("{name}: {} are there already, nothing was sent", bytes(done.size)),
        sent => {
            let resumed = if sent < done.size { format!(" of {}", bytes(done.size)) } else { String::new() };
            format!(
                "{name}: {}{resumed} sent in {seconds:.1} s, {}/s",
                bytes(sent),
                bytes((sent as f64 / seconds) as u64)
            )
        }
    };
    Ok((done, text))
}

pub fn put(s: &mut Session, file: &Path, name: Option<&str>) -> Result<(), Error> {
    let (done, text) = upload(s, Upload::open(file, name)?)?;
    let value = || json!({ "hash": json::hash(&done.hash), "size": done.size, "sent": done.sent });
    s.print(value, || format!("{text}\nsha256:{}\n", done.hash));
    Ok(())
}

/// The uploaded object that a name or the beginning of a hash stands for.
fn object(s: &mut Session, wanted: &str, by_name: bool) -> Result<Hash, Error> {
    let objects = s.client.objects()?;
    let uploads = || objects.iter().filter(|o| !o.boot).filter_map(|o| o.hash.map(|hash| (o, hash)));
    let prefix = wanted.strip_prefix("sha256:").unwrap_or(wanted).to_lowercase();
    let named: Vec<Hash> = uploads().filter(|(o, _)| by_name && o.name == wanted).map(|(_, hash)| hash).collect();
    let hashed = || uploads().filter(|(_, h)| is_hash(&prefix) && h.to_string().starts_with(&prefix)).map(|(_, h)| h);
    let found = if named.is_empty() { hashed().collect() } else { named };
    match found[..] {
        [hash] => Ok(hash),
        [] => {
            Err(Error::NoObject(format!("nothing uploaded is \"{wanted}\"; `merus ctl objects` lists what is there")))
        }
        _ => Err(Error::NoObject(format!("{} uploads are \"{wanted}\"; give more of the hash", found.len()))),
    }
}

pub fn forget(s: &mut Session, wanted: &str) -> Result<(), Error> {
    let hash = object(s, wanted, true)?;
    s.client.done(&Call::Forget { hash })?;
    s.print(|| json!({ "done": true, "hash": json::hash(&hash) }), || format!("forgotten: sha256:{hash}\n"));
    Ok(())
}

pub fn payload(s: &mut Session, source: &Source) -> Result<Payload, Error> {
    Ok(match source {
        Source::Boot(name) => Payload::Boot(name.clone()),
        Source::Hash(hash) => Payload::Object(object(s, hash, false)?),
        Source::File(path) => sent(s, Upload::open(path, None)?)?,
    })
}

/// Uploads and says so.
fn sent(s: &mut Session, upload: Upload) -> Result<Payload, Error> {
    let (done, text) = self::upload(s, upload)?;
    if !s.json {
        say(&format!("{text}\n"));
    }
    Ok(Payload::Object(done.hash))
}

/// The same for a kernel: a file is unpacked, or laid out, if its form asks for that. `raw` is where the settings say that it goes,
/// and becomes where it does.
fn kernel(s: &mut Session, source: &Source, raw: &mut Raw, memory: u64) -> Result<Payload, Error> {
    if let Source::File(path) = source {
        let fault = |error| Error::File { path: path.display().to_string(), source: std::io::Error::other(error) };
        if let Some(made) = kernel::open(path, *raw, memory).map_err(fault)? {
            *raw = made.raw;
            let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
            return sent(s, Upload::of(made.bytes, &name));
        }
    }
    payload(s, source)
}

/// Splits where the kernel goes off the settings.
fn places(settings: &[(String, String)]) -> Result<(Raw, String), Error> {
    let (mut raw, mut others) = (Raw::default(), String::new());
    for (key, value) in settings {
        match config::setting::raw(key, value, &mut raw) {
            Some(taken) => taken.map_err(|fault| Error::Usage(format!("--set {key}={value}: {fault}")))?,
            None => others += &format!("{key}={value}\n"),
        }
    }
    Ok((raw, others))
}

/// What the command line asks for; uploads what is not there.
pub fn new_vm(s: &mut Session, create: &Create) -> Result<NewVm, Error> {
    let (mut raw, mut settings) = places(&create.set)?;
    let kernel = kernel(s, &create.kernel, &mut raw, create.memory)?;
    for (key, value) in [(key::LOAD, raw.load), (key::ENTRY, raw.entry), (key::ROOM, raw.room)] {
        settings += &value.map_or(String::new(), |value| format!("{key}={value:#x}\n"));
    }
    let initrd = create.initrd.as_ref().map(|initrd| payload(s, initrd)).transpose()?;
    for device in equip::words(s, &create.devices)? {
        settings += &format!("{device}\n");
    }
    Ok(NewVm {
        name: create.name.clone(),
        group: create.group.clone(),
        kernel,
        initrd,
        cmdline: create.cmdline.clone(),
        memory: create.memory,
        vcpus: create.vcpus,
        settings,
    })
}

pub fn create(s: &mut Session, create: &Create) -> Result<(), Error> {
    let new = new_vm(s, create)?;
    let wait = s.wait(create.no_wait);
    life::create(&mut s.client, new, wait)?;
    if create.start {
        life::start(&mut s.client, &create.name, wait)?;
    }
    told(s, &create.name, wait)
}

/// What a VM is now. Nobody who does not want to wait is made to: nothing is asked then.
fn told(s: &mut Session, vm: &str, wait: Option<Duration>) -> Result<(), Error> {
    if wait.is_none() {
        s.print(|| json!({ "done": false }), || format!("{vm}: under way\n"));
        return Ok(());
    }
    let row = s.client.info(vm)?;
    s.print(|| json!({ "done": true, "vm": json::vm(&row) }), || format!("{vm}: {}\n", row.state));
    Ok(())
}

/// What a command does to a VM.
pub enum Step {
    Start,
    Pause,
    Resume,
    Reset,
    /// With this grace.
    Stop(Duration),
}

pub fn life(s: &mut Session, of: &OfVm, step: &Step) -> Result<(), Error> {
    let (wait, vm) = (s.wait(of.no_wait), &of.vm);
    match step {
        Step::Start => life::start(&mut s.client, vm, wait),
        Step::Pause => life::pause(&mut s.client, vm, wait),
        Step::Resume => s.client.done(&Call::Resume { vm: vm.clone() }),
        Step::Reset => life::reset(&mut s.client, vm, wait),
        Step::Stop(grace) => {
            // A machine whose last VM ends may power off, with the line, before it is asked what came of it.
            return match life::stop(&mut s.client, vm, *grace, wait).and_then(|()| told(s, vm, wait)) {
                Err(Error::Lost { call: "info", .. }) => {
                    s.print(
                        || json!({ "done": true, "gone": true }),
                        || format!("{vm}: stopped, and Merus has ended\n"),
                    );
                    Ok(())
                }
                done => done,
            };
        }
    }?;
    told(s, vm, wait)
}

pub fn destroy(s: &mut Session, vm: &str, force: bool) -> Result<(), Error> {
    life::destroy(&mut s.client, vm, force, s.timeout)?;
    s.print(|| json!({ "done": true }), || format!("{vm}: destroyed\n"));
    Ok(())
}

pub fn group(s: &mut Session, name: &str, words: &[String]) -> Result<(), Error> {
    // A setting that is none makes no group.
    words.iter().try_for_each(|word| setting(word).map(|_| ())).map_err(Error::Usage)?;
    s.client.done(&Call::MakeGroup { group: name.into() })?;
    if !words.is_empty() {
        return set(s, Some(name), words);
    }
    s.print(|| json!({ "done": true }), || format!("{name}: a group\n"));
    Ok(())
}

/// What is to be set to what: all words are read before the first is set.
pub fn settings(group: Option<&str>, words: &[String]) -> Result<(Target, Vec<(String, String)>), Error> {
    let (target, words) = match (group, words) {
        (Some(group), words) => (Target::Group(group.into()), words),
        (None, [vm, words @ ..]) if !vm.contains('=') => (Target::Vm(vm.clone()), words),
        _ => return Err(Error::Usage("no VM is named; write set VM KEY=VALUE, or set --group GROUP KEY=VALUE".into())),
    };
    if words.is_empty() {
        return Err(Error::Usage("no setting is given; write KEY=VALUE such as cpu.weight=200".into()));
    }
    let settings = words.iter().map(|word| setting(word)).collect::<Result<Vec<_>, _>>().map_err(Error::Usage)?;
    Ok((target, settings))
}

pub fn set(s: &mut Session, group: Option<&str>, words: &[String]) -> Result<(), Error> {
    let (target, settings) = settings(group, words)?;
    for (key, value) in &settings {
        s.client.done(&Call::Set { target: target.clone(), key: key.clone(), value: value.clone() })?;
    }
    let text = || settings.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
    s.print(|| json!({ "done": true }), text);
    Ok(())
}
