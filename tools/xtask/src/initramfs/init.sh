#!/bin/sh
# The first process of the guest. The kernel's command line says what it does:
#   merus.script=demo     a short workload that checks itself ("demo: ok" or "demo: FAILED ..."), then power off
#   merus.script=reboot   print "reboot: up" and restart, always
#   merus.script=busy     keep every CPU busy for ever; say so once
#   merus.script=off      print "off: up nproc=N" and power off
#   merus.script=key      say "key: waits" and wait for a power key
#   merus.script=share    do checked work and measure the CPU time had from one second of the RTC, which all guests read alike, to another,
#                         go on working to a third ("had TAG N us ..." or "share: FAILED ..."), then power off
#   merus.script=work     checked work on every CPU for ever ("work TAG: up nproc=N", "work TAG: FAILED ..."); at the console:
#                         more WORD N    "more TAG WORD N" when N more rounds of work are done
#                         clock          "clock TAG: behind N ms": what the kernel's clock has lost against the RTC since the start
#                         complaints     "complaints TAG: N", and the kernel's lines about stalls, lock-ups and clocks
#                         panic, off     as they say
#   merus.script=steal    keep busy for a while, print what the kernel says of stolen time ("stat: steal N of M ticks"), then power off
#   merus.script=big      hold /big against the hash that came with it ("big: ok" or "big: FAILED ..."), then power off
#   merus.script=memory   fill some memory, which must come from above 4 GiB, and read it again ("memory: ok, N MiB" or
#                         "memory: FAILED ..."), then power off
#   merus.script=port     say something on ttyAMA1, listen there ("port: heard ...", "port: interrupts N"), say "port: ok" or "port: FAILED ...", power off
#   merus.script=disk     say what the first disk begins with ("disk: N sectors, ro R, begins with HASH"); unless it is read-only have four
#                         jobs write a quarter of it (of merus.size KiB) each and read it again past the cache; "disk: ok, N KiB" or
#                         "disk: FAILED ...", then power off
#   merus.script=mount    mount the first disk's ext4 and say its greeting ("mount: GREETING, N rounds before"), write merus.size KiB there and
#                         hold them against their hash behind an unmount; "mount: ok, N KiB" or "mount: FAILED ...", then power off
#   merus.script=serve    offer a file of merus.size KiB by HTTP at merus.address ("serve: up"), and wait for a power key
#   merus.script=fetch    fetch it from merus.peer and hold it against its hash ("fetch: ok, N KiB" or "fetch: FAILED ..."), then power off
#   merus.script=between  wait until merus.peer answers, then serve: who has the file knows that the third one is there as well
#   merus.script=many     have answers from merus.peer, 50 at a time, merus.rounds each ("many: ok, N requests" or "many: FAILED ...")
#   merus.script=rules    reach merus.peer, but not merus.other of the address merus.mac, and nobody under another address than one's own
#                         ("rules: ok" or "rules: FAILED ...")
#   merus.script=crash    of a root: write files to the second disk, say "crash: life N is at work", and go on; in the next life hold what
#                         the third disk says was written before ("crash: life N holds M files"), until merus.rounds lives are over
#                         ("crash: ok, N lives" or "crash: FAILED ..."), then power off
#   merus.script=autopsy  in another VM: the same holding, of what the fourth and fifth disk have
#   merus.script=web, user
#                         of a root: the two guests of `cargo xtask run --demo net`; with merus.shell, go on to a shell
#   merus.script=random   read random bytes of the machine's device ("random: ok, NAME" or "random: FAILED ..."), then power off
#   (none)                a shell; leaving it powers off
#   merus.cpus=N          demo fails unless N CPUs are online
#   merus.tag=T           what share and work call themselves
#   merus.size=N          KiB, of disk, serve and fetch
#   merus.rounds=N        of fetch, many and crash
#   merus.hotplug=1       fetch first without CPU 0 ("fetch: without CPU 0"), then while both CPUs go off and on in turn
#   merus.root=DISK       go on with the root file system on that disk (vda), and the same script
#   merus.address=A merus.peer=A
#                         of serve and fetch: IPv4 addresses of one /24 network; merus.address=dhcp asks for one, merus.peer may have a port
#   merus.from=S merus.to=S merus.until=S
#                         the seconds of share
# A power key that is pressed powers off in `key`, `busy` and the shell; the others end by themselves, or not at all.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/ TERM=linux
# From a disk's root: the initramfs has made all of this.
if [ "$1" != root ]; then
    mkdir -p /proc /sys /dev /tmp
    mount -t proc proc /proc
    mount -t sysfs sysfs /sys
    # Without it there is no /dev/zero, and a hash of nothing would look like a result.
    mount -t devtmpfs devtmpfs /dev || echo "init: no devtmpfs"
fi

script= cpus= tag=- from=2 to=4 until=4 address=10.0.0.1 peer=10.0.0.1 other= mac= size= rounds=1 root= shell= hotplug=
for word in $(cat /proc/cmdline); do
    case $word in
        merus.script=*) script=${word#*=} ;;
        merus.cpus=*) cpus=${word#*=} ;;
        merus.tag=*) tag=${word#*=} ;;
        merus.from=*) from=${word#*=} ;;
        merus.to=*) to=${word#*=} ;;
        merus.until=*) until=${word#*=} ;;
        merus.address=*) address=${word#*=} ;;
        merus.peer=*) peer=${word#*=} ;;
        merus.other=*) other=${word#*=} ;;
        merus.mac=*) mac=${word#*=} ;;
        merus.size=*) size=${word#*=} ;;
        merus.hotplug=*) hotplug=${word#*=} ;;
        merus.rounds=*) rounds=${word#*=} ;;
        merus.root=*) root=${word#*=} ;;
        merus.shell) shell=1 ;;
    esac
done
tty=$(cat /sys/class/tty/console/active 2>/dev/null)
tty=/dev/${tty##* }

# Modules for the virtio devices that are there: first the transports, then what appears behind them. Only names are
# looked at, so that a guest without any loses no time.
load() {
    for file; do
        [ -r "$file" ] || continue
        read -r alias <"$file"
        case $alias in
            *virtio,mmio* | pci:v00001AF4* | virtio:*) ;;
            *) continue ;;
        esac
        case " $loaded" in
            *" $alias "*) continue ;;
        esac
        loaded="$loaded$alias "
        modprobe "$alias" 2>/dev/null
    done
}
loaded=
devices() {
    load /sys/bus/platform/devices/*virtio*/modalias /sys/bus/pci/devices/*/modalias
    load /sys/bus/virtio/devices/*/modalias
}

# What was written must have left the UART before the power goes: stty waits for that.
end() {
    stty -F "$tty" onlcr 2>/dev/null
    "$1" -f
    # Neither returns; if one does, say so instead of letting the kernel panic over a lost init.
    echo "init: $1 did not work"
    while :; do sleep 60; done
}

# Reads a device's events: 16 bytes of time, type, code, value. A power key (1, 116) that goes down (1) ends it all.
watch() {
    while event=$(dd bs=24 count=1 2>/dev/null | hexdump -v -e '/2 "%u "') && [ -n "$event" ]; do
        case $event in
            *" 1 116 1 0 ")
                echo "init: the power key"
                end poweroff
                ;;
        esac
    done
}

# Watches what keys there are.
keys() {
    devices
    modprobe evdev 2>/dev/null
    for event in /dev/input/event*; do
        [ -c "$event" ] || continue
        # Opened here: from now on no press is missed.
        exec 3<"$event"
        watch <&3 &
    done
}

# Goes on from a disk, whose modules are here.
leave() {
    devices
    modprobe evdev 2>/dev/null
    mkdir -p /newroot
    if mount -t ext4 "/dev/$root" /newroot; then
        for dir in dev proc sys; do
            mount -o move /$dir /newroot/$dir
        done
        mount -t tmpfs tmpfs /newroot/tmp
        exec switch_root /newroot /bin/init root
    fi
    echo "init: $root is no root"
    end poweroff
}
[ -z "$root" ] || [ "$1" = root ] || leave

demo() {
    devices
    uname -a
    online=$(nproc)
    echo "nproc: $online"
    cat /proc/interrupts
    if [ -n "$cpus" ] && [ "$online" != "$cpus" ]; then
        echo "demo: FAILED nproc ($online instead of $cpus)"
        return
    fi
    hash=$(dd if=/dev/zero bs=1M count=16 2>/dev/null | sha256sum)
    hash=${hash%% *}
    echo "sha256 of 16 MiB of zeros: $hash"
    if [ "$hash" != 080acf35a507ac9849cfcba47dc2ad83e01b75663a516279c8b9d243b719643e ]; then
        echo "demo: FAILED sha256"
        return
    fi
    echo "demo: ok"
}

# Has a second PL011 say more than its FIFO holds, and hear a line, which interrupts.
port() {
    if ! [ -c /dev/ttyAMA1 ]; then
        echo "port: FAILED there is no ttyAMA1"
        return
    fi
    # What stands on the console is out before the other port's lines come between.
    sleep 1
    stty -F /dev/ttyAMA1 115200 raw -echo
    # The driver has the interrupt while somebody has the port open.
    exec 4<>/dev/ttyAMA1
    for line in 1 2 3 4 5 6 7 8; do
        echo "line $line of the port that was passed through, long enough to fill its transmitter more than once" >&4
    done
    sleep 1
    echo "port: waits"
    read -r -t 20 heard <&4
    echo "port: heard $heard"
    grep 'uart-pl011' /proc/interrupts
    # SPI 8, as on the machine; the first CPU has it.
    while read -r _ count line; do
        case $line in
            *" 40 Level"*) echo "port: interrupts $count" ;;
        esac
    done </proc/interrupts
    exec 4>&-
    echo "port: ok"
}

rtc=/sys/class/rtc/rtc0/since_epoch

# Sleeps until a second of the RTC, then measures.
share() {
    early=
    while read -r now <$rtc && [ "$now" -lt "$from" ]; do
        early=1
        sleep 0.02
    done
    if [ -z "$early" ]; then
        echo "share: FAILED late: $now"
        return
    fi
    awk -v rtc=$rtc -v tag="$tag" -v to="$to" -v until="$until" -f /share.awk
}

# Rounds of work whose result is known: the hash of 256 KiB of zeros.
rounds() {
    count=0
    while hash=$(sha256sum /tmp/piece) && [ "${hash%% *}" = "$known" ]; do
        count=$((count + 1))
        echo $count >/tmp/rounds.$1
    done
    echo "work $tag: FAILED sha256 ($hash)"
}
complaint="rcu: INFO|soft lockup|hard LOCKUP|unstable|blocked for more|backwards|clock skew|WARNING|BUG"
known=8a39d2abd3999ab73c34db2476849cddf303ce389b35826850f9a700589b4a90

done_by_all() {
    sum=0
    for file in /tmp/rounds.*; do
        # It may be read between its making and its filling.
        read -r count <$file && sum=$((sum + count))
    done
}

# What the kernel's clock is behind the RTC, in hundredths of a second: looked at when a second of the RTC begins.
behind() {
    read -r before <$rtc
    now=$before
    while [ "$now" = "$before" ]; do
        read -r now <$rtc
    done
    read -r up idle </proc/uptime
    # "12.34" without its dot, and without a zero before what is left.
    up=${up%.*}${up#*.}
    behind=$((now * 100 - ${up#0}))
}

work() {
    dd if=/dev/zero of=/tmp/piece bs=64k count=4 2>/dev/null
    # A time that jumps is to be complained of.
    echo 2 >/proc/sys/kernel/watchdog_thresh
    behind
    start=$behind
    cpu=$(nproc)
    while [ "$cpu" -gt 0 ]; do
        rounds $cpu &
        cpu=$((cpu - 1))
    done
    echo "work $tag: up nproc=$(nproc)"
    while read -r command word number; do
        case $command in
            more)
                done_by_all
                goal=$((sum + number))
                while [ "$sum" -lt "$goal" ]; do
                    sleep 0.1
                    done_by_all
                done
                echo "more $tag $word $number"
                ;;
            clock)
                behind
                echo "clock $tag: behind $(((behind - start) * 10)) ms"
                ;;
            complaints)
                dmesg | grep -E "$complaint"
                echo "complaints $tag: $(dmesg | grep -cE "$complaint")"
                ;;
            panic)
                echo c >/proc/sysrq-trigger
                ;;
            off)
                return
                ;;
        esac
    done <"$tty"
}

# Pages that the zone above 4 GiB has left.
normal() {
    awk '/zone +Normal/ { on = 1 } on && /pages free/ { print $3; exit }' /proc/zoneinfo
}

# 32 MiB, more or less.
pieces() {
    for n in $(seq 16); do
        cat /bin/busybox
    done
}

memory() {
    total=$(awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo)
    before=$(normal)
    pieces >/tmp/piece
    after=$(normal)
    # The kernel takes from there before it looks elsewhere.
    if [ $((before - after)) -lt 4096 ]; then
        echo "memory: FAILED above 4 GiB ($before pages free, then $after)"
    elif pieces | cmp - /tmp/piece; then
        echo "memory: ok, $total MiB"
    else
        echo "memory: FAILED: not what was written"
    fi
}

hash_of() {
    hash=$(sha256sum)
    echo "${hash%% *}"
}

# Writes job `$1`'s quarter of the disk, whose bytes nobody can guess, and leaves their hash.
fill() {
    # By way of files: pipes would make this a test of the scheduler.
    dd if=/dev/urandom of=/tmp/part.$1 bs=64k count=$((quarter / 64)) iflag=fullblock 2>/dev/null
    hash_of </tmp/part.$1 >/tmp/sum.$1
    dd if=/tmp/part.$1 of=/dev/vda bs=64k seek=$(($1 * quarter / 64)) conv=notrunc,fsync 2>/dev/null || echo "disk: FAILED writing $1"
    rm /tmp/part.$1
}

# Reads it again.
hold() {
    read -r sum </tmp/sum.$1
    dd if=/dev/vda of=/tmp/part.$1 bs=64k skip=$(($1 * quarter / 64)) count=$((quarter / 64)) 2>/dev/null
    now=$(hash_of </tmp/part.$1)
    [ "$now" = "$sum" ] || echo "disk: FAILED $1: $now instead of $sum" | tee /tmp/failed
}

disk() {
    devices
    if ! [ -b /dev/vda ]; then
        echo "disk: FAILED there is none"
        return
    fi
    read -r sectors </sys/block/vda/size
    read -r ro </sys/block/vda/ro
    echo "disk: $sectors sectors, ro $ro, begins with $(dd if=/dev/vda bs=64k count=1 2>/dev/null | hash_of)"
    # In KiB, and whole pieces of 64 KiB.
    quarter=$((${size:-$((sectors / 2))} / 4 / 64 * 64))
    if [ "$ro" = 1 ]; then
        dd if=/dev/zero of=/dev/vda bs=4k count=1 conv=fsync 2>/dev/null && echo "disk: FAILED a read-only disk was written" && return
        echo "disk: ok, none written"
        return
    fi
    for job in 0 1 2 3; do
        fill $job &
    done
    wait
    sync
    echo 3 >/proc/sys/vm/drop_caches
    for job in 0 1 2 3; do
        hold $job &
    done
    wait
    [ -e /tmp/failed ] || echo "disk: ok, $((quarter * 4)) KiB"
}

mounted() {
    devices
    mkdir -p /mnt
    if ! mount -t ext4 /dev/vda /mnt; then
        echo "mount: FAILED it cannot be mounted"
        return
    fi
    read -r before 2>/dev/null </mnt/rounds || before=0
    echo "mount: $(cat /mnt/greeting), $before rounds before"
    echo $((before + 1)) >/mnt/rounds
    dd if=/dev/urandom of=/tmp/new bs=64k count=$((${size:-4096} / 64)) iflag=fullblock 2>/dev/null
    sum=$(hash_of </tmp/new)
    dd if=/tmp/new of=/mnt/new bs=64k conv=fsync 2>/dev/null || echo "mount: FAILED writing"
    umount /mnt || echo "mount: FAILED it is not let go"
    echo 3 >/proc/sys/vm/drop_caches
    mount -t ext4 -o ro /dev/vda /mnt
    now=$(hash_of </mnt/new)
    umount /mnt
    if [ "$now" = "$sum" ]; then
        echo "mount: ok, ${size:-4096} KiB"
    else
        echo "mount: FAILED $now instead of $sum"
    fi
}

# Twice as many bytes as a request has.
drawn() {
    dd if=/dev/hwrng of=/tmp/drawn bs=512 count=1 iflag=fullblock 2>/dev/null && hash_of </tmp/drawn
}

# Time since the kernel started, in 1/100 s.
hundredths() {
    read -r up rest </proc/uptime
    echo "${up%.*}${up#*.}"
}

random() {
    devices
    read -r name </sys/class/misc/hw_random/rng_current
    one=$(drawn)
    if [ -n "$one" ] && [ "$one" != "$(drawn)" ] && [ "$(stat -c %s /tmp/drawn)" = 512 ]; then
        # More than there are at once: the rest comes with time, as many bytes a millisecond.
        from=$(hundredths)
        dd if=/dev/hwrng of=/dev/null bs=1k count=512 iflag=fullblock 2>/dev/null
        took=$((($(hundredths) - from) * 10))
        if [ $took -lt 1600 ]; then
            echo "random: FAILED 512 KiB in $took ms"
            return
        fi
        echo "random: ok, $name"
    else
        echo "random: FAILED $name, $one"
    fi
}

network() {
    devices
    if ! [ -d /sys/class/net/eth0 ]; then
        echo "$script: FAILED there is no eth0"
        return 1
    fi
    if [ "$address" = dhcp ]; then
        printf '#!/bin/sh\n[ "$1" = bound ] && ifconfig "$interface" "$ip" netmask "$subnet"\n' >/tmp/bound
        chmod 755 /tmp/bound
        ifconfig eth0 up
        udhcpc -n -q -f -i eth0 -t 20 -T 1 -s /tmp/bound >/dev/null 2>&1
        address=$(ifconfig eth0 | sed -n 's/.*inet addr:\([0-9.]*\).*/\1/p')
        echo "network: eth0 has $address by DHCP"
        return
    fi
    ifconfig eth0 "$address" netmask 255.255.255.0 up
}

serve() {
    network || return
    mkdir -p /www
    dd if=/dev/urandom of=/www/file bs=64k count=$((size / 64)) iflag=fullblock 2>/dev/null
    hash_of </www/file >/www/sum
    httpd -h /www
    echo "serve: up"
}

# Waits for somebody who serves.
first() {
    tries=0
    until sum=$(wget -q -O - "http://$peer/sum" 2>/dev/null); do
        tries=$((tries + 1))
        if [ $tries = 1000 ]; then
            echo "$script: FAILED nobody answers at $peer"
            return 1
        fi
        sleep 0.1
    done
}

# Takes CPU `$1` offline.
off() {
    echo 0 >"/sys/devices/system/cpu/cpu$1/online" && return
    echo "fetch: FAILED CPU $1 stays online" | tee /tmp/failed
    return 1
}

# CPU 0 is off.
turns() {
    while :; do
        for cpu in 0 1; do
            echo 1 >/sys/devices/system/cpu/cpu$cpu/online
            off $((1 - cpu))
        done
    done
}

fetch() {
    network || return
    first || return
    if [ -n "$hotplug" ]; then
        # The boot CPU first, for a whole file; then one after the other while the next ones come.
        off 0 || return
        wget -q -O /tmp/file "http://$peer/file"
        [ "$(hash_of </tmp/file)" = "$sum" ] || echo "fetch: FAILED without CPU 0" | tee /tmp/failed
        echo "fetch: without CPU 0"
        turns &
    fi
    for round in $(seq "$rounds"); do
        wget -q -O /tmp/file "http://$peer/file"
        now=$(hash_of </tmp/file)
        [ "$now" = "$sum" ] || echo "fetch: FAILED $now instead of $sum" | tee /tmp/failed
    done
    [ -e /tmp/failed ] || echo "fetch: ok, $((size * rounds)) KiB"
    grep eth0 /proc/net/dev
}

. /io.sh
case $script in
    many | rules | crash | autopsy | stream)
        "$script"
        end poweroff
        ;;
    between)
        keys
        between
        while :; do sleep 60; done
        ;;
    web | user)
        "$script"
        if [ -z "$shell" ]; then
            [ "$script" = web ] || end poweroff
            keys
            while :; do sleep 60; done
        fi
        ;;
    mount)
        mounted
        end poweroff
        ;;
    disk)
        disk
        end poweroff
        ;;
    random)
        random
        end poweroff
        ;;
    serve)
        keys
        serve
        while :; do sleep 60; done
        ;;
    fetch)
        fetch
        end poweroff
        ;;
    big)
        hash=$(sha256sum </big)
        read -r sum name </big.sum
        if [ "$hash" = "$sum  -" ]; then
            echo "big: ok"
        else
            echo "big: FAILED $name: $hash"
        fi
        end poweroff
        ;;
    memory)
        memory
        end poweroff
        ;;
    demo)
        demo
        end poweroff
        ;;
    reboot)
        echo "reboot: up"
        end reboot
        ;;
    key)
        keys
        echo "key: waits"
        while :; do sleep 60; done
        ;;
    busy)
        keys
        for cpu in $(seq "$(nproc)"); do
            while :; do dd if=/dev/zero bs=1M count=4 2>/dev/null | sha256sum >/dev/null; done &
        done
        echo "busy: up nproc=$(nproc)"
        while :; do sleep 60; done
        ;;
    steal)
        dmesg | grep 'stolen time' || echo "steal: FAILED the kernel has not found it"
        until read -r up _ </proc/uptime && [ "${up%.*}" -ge 1 ]; do :; done
        read -r _ user nice system idle iowait irq softirq steal _ </proc/stat
        echo "stat: steal $steal of $((user + nice + system + idle + iowait + irq + softirq + steal)) ticks"
        end poweroff
        ;;
    port)
        port
        end poweroff
        ;;
    off)
        echo "off: up nproc=$(nproc)"
        end poweroff
        ;;
    share)
        share
        end poweroff
        ;;
    work)
        work
        end poweroff
        ;;
    ?*)
        echo "init: unknown merus.script=$script"
        end poweroff
        ;;
esac

keys
busybox --install -s /bin 2>/dev/null
# Errors only: later kernel lines would run into the prompt.
dmesg -n 4
echo
echo "Linux $(uname -r), $(nproc) CPUs. \`exit\` powers the machine off."
export PS1='# '
# A session of its own with the terminal as its controlling one, so that Ctrl-C and job control work.
setsid -c sh -i <"$tty" >"$tty" 2>&1
end poweroff
