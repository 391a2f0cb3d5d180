//! The tables of a VM's devices: `[[vm.disk]]` and `[[vm.net]]`.

use super::fields::{Fields, payload};
use super::ready::Content;
use crate::report::Kind;
use crate::value;
use config::spec::{DEFAULT_MTU, DeviceFault, DiskSource, DiskSpec, NetSpec, PayloadKind, key};
use std::ops::Range;
use std::path::Path;
use toml::de::{DeTable, DeValue};

impl<'a> Fields<'a, '_> {
    /// The tables of this name.
    fn tables(&mut self, name: &'static str) -> Vec<(Range<usize>, &'a DeTable<'a>)> {
        let Some(setting) = self.settings.iter().find(|setting| setting.name == name) else { return Vec::new() };
        let DeValue::Array(items) = setting.value else {
            self.fail(name, format!("is one table; write [[vm.{name}]], one a {name}"));
            return Vec::new();
        };
        let mut tables = Vec::new();
        for item in items.iter() {
            match item.get_ref() {
                DeValue::Table(table) => tables.push((item.span(), table)),
                _ => self.fail(name, format!("is no table; write [[vm.{name}]] tables")),
            }
        }
        tables
    }

    /// The disks.
    pub(super) fn disks(&mut self, files: &mut Vec<Content>, folder: &Path) -> Vec<DiskSpec> {
        let tables = self.tables(key::DISK);
        tables.into_iter().enumerate().map(|(n, (at, table))| self.disk(n, at, table, files, folder)).collect()
    }

    fn disk(
        &mut self,
        n: usize,
        at: Range<usize>,
        table: &'a DeTable<'a>,
        files: &mut Vec<Content>,
        folder: &Path,
    ) -> DiskSpec {
        let mut fields = Fields::new(self.report, self.who.part(key::DISK, n), at, table, &key::OF_DISK);
        let given = |name| fields.settings.iter().any(|setting| setting.name == name);
        let (image, host) = (given(key::IMAGE), given(key::HOST));
        if image && host {
            fields.fail(key::HOST, DeviceFault::TwoSources);
        } else if !image && !host {
            fields.lines.faulty.extend([key::IMAGE, key::HOST]);
            let text = format!("{}{}", fields.who, DeviceFault::NoSource);
            fields.report.add(&fields.lines.table, Kind::Form, text);
        }
        let source = match fields.optional(key::IMAGE, value::text) {
            Some(name) => DiskSource::Image(fields.payload(files, folder, name, PayloadKind::Disk)),
            // What is found wrong is not to be found wrong again for what stands in its place.
            None if image || !host => DiskSource::Image(payload(String::new(), PayloadKind::Disk)),
            None => DiskSource::Host(fields.optional(key::HOST, value::text).unwrap_or_default()),
        };
        let readonly = fields.optional(key::READONLY, value::flag).unwrap_or_default();
        let serial = fields.optional(key::SERIAL, value::text);
        self.lines.disks.push(fields.lines);
        DiskSpec { source, readonly, serial }
    }

    /// The network cards.
    pub(super) fn nets(&mut self) -> Vec<NetSpec> {
        let tables = self.tables(key::NET);
        tables.into_iter().enumerate().map(|(n, (at, table))| self.net(n, at, table)).collect()
    }

    fn net(&mut self, n: usize, at: Range<usize>, table: &'a DeTable<'a>) -> NetSpec {
        let mut fields = Fields::new(self.report, self.who.part(key::NET, n), at, table, &key::OF_NET);
        let spec = NetSpec {
            switch: fields.required(key::SWITCH, value::text).unwrap_or_default(),
            mac: fields.optional(key::MAC, value::mac),
            mtu: fields.optional(key::MTU, value::mtu).unwrap_or(DEFAULT_MTU),
            isolated: fields.optional(key::ISOLATED, value::flag).unwrap_or_default(),
        };
        self.lines.nets.push(fields.lines);
        spec
    }
}
