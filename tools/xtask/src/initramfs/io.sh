# What guests do to disks and networks: a part of /init, which says what each is.

# Whether `$1` answers.
answers() {
    ping -c 1 -W "${2:-1}" "$1" >/dev/null 2>&1
}

between() {
    network || return
    until answers "$peer"; do :; done
    serve
}

# As many requests as there are rounds, of each of 50.
many() {
    network && first || return
    urls=
    for round in $(seq "$rounds"); do
        urls="$urls http://$peer/sum"
    done
    for job in $(seq 50); do
        wget -q -O - $urls >/tmp/got.$job &
    done
    wait
    count=$(cat /tmp/got.* | grep -c -x "$sum")
    if [ "$count" = $((50 * rounds)) ]; then
        echo "many: ok, $count requests"
    else
        echo "many: FAILED $count answers of $((50 * rounds))"
    fi
}

# A file over and over, and nothing done with it.
stream() {
    network && first || return
    echo "stream: begins"
    for round in $(seq "$rounds"); do
        wget -q -O /dev/null "http://$peer/file"
    done
    echo "stream: ok"
}

# Has the card send from another address.
poses_as() {
    ifconfig eth0 down
    ifconfig eth0 hw ether "$1"
    ifconfig eth0 "$address" netmask 255.255.255.0 up
}

rules() {
    network && first || return
    read -r own </sys/class/net/eth0/address
    # Not even by a frame for it alone.
    arp -s "$other" "$mac"
    if answers "$other" 2; then
        echo "rules: FAILED $other can be reached"
        return
    fi
    for pose in 52:54:00:ab:cd:ef "$mac"; do
        poses_as "$pose"
        if answers "$peer" 2; then
            echo "rules: FAILED $peer answers $pose, and $own is asking"
            return
        fi
    done
    # The same once more, by its own address: it was not for want of time.
    poses_as "$own"
    if answers "$peer" 20; then
        echo "rules: ok"
    else
        echo "rules: FAILED $peer does not answer $own any more"
    fi
}

# Files that nobody syncs, as long as there is power.
churn() {
    while :; do
        for n in 0 1 2 3 4 5 6 7; do
            dd if=/dev/zero of=/mnt/churn.$n bs=16k count=$((n + 1)) 2>/dev/null
        done
        rm -f /mnt/churn.*
    done
}

# Whether files `$from` to `$synced` are there with the hashes that their names end with.
holds() {
    n=$from
    while [ "$n" -le "$synced" ]; do
        for file in /mnt/file."$n".*; do
            now=$(hash_of <"$file")
            if [ "$file" != "/mnt/file.$n.$now" ]; then
                echo "crash: FAILED file $n of $from to $synced is $now, and should be $file"
                return 1
            fi
        done
        n=$((n + 1))
    done
}

# Says on the third disk what is on the second one, by a sector, which is written whole or not at all.
witness() {
    echo "merus $((life + 1)) $from $synced ." | dd of=/dev/vdc bs=512 conv=sync,notrunc,fsync 2>/dev/null
}

crash() {
    # Not by `read` from the disk itself, which has no line's end for long and is read byte by byte.
    set -- $(dd if=/dev/vdc bs=512 count=1 2>/dev/null)
    known=$1 life=$2 from=$3 synced=$4
    if [ "$known" != merus ]; then
        life=0 from=1 synced=0
        mke2fs -q -t ext4 -F /dev/vdb || return
    fi
    # What the journal has is taken over; what is wrong then cannot have been right before.
    e2fsck -p /dev/vdb && e2fsck -fn /dev/vdb >/tmp/said 2>&1
    code=$?
    if [ $code != 0 ]; then
        cat /tmp/said
        echo "crash: FAILED e2fsck $code in life $life"
        return
    fi
    mount -t ext4 /dev/vdb /mnt && holds || return
    echo "crash: life $life holds $((synced - from + 1)) files"
    if [ "$life" = "$rounds" ]; then
        echo "crash: ok, $life lives"
        return
    fi
    rm -f /mnt/file.*
    sync
    from=$((synced + 1)) before=$synced
    churn &
    while :; do
        n=$((synced + 1))
        dd if=/dev/urandom of=/tmp/file bs=4k count=$((n % 16 + 1)) 2>/dev/null
        file=/mnt/file.$n.$(hash_of </tmp/file)
        dd if=/tmp/file of="$file" conv=fsync 2>/dev/null || break
        synced=$n
        witness || break
        [ "$n" = $((before + 6)) ] && echo "crash: life $life is at work"
        # No more than the disk has room for: from here on nobody asks for those.
        if [ $((synced - from)) = 400 ]; then
            from=$((synced + 1))
            witness || break
            rm -f /mnt/file.*
        fi
    done
    echo "crash: FAILED to write file $n in life $life"
}

# In another VM: looks at what was left of the first one's disks, which cannot be written here, on disks of its own.
autopsy() {
    set -- $(dd if=/dev/vde bs=512 count=1 2>/dev/null)
    known=$1 rounds=$2
    if [ "$known" != merus ]; then
        echo "autopsy: there is nothing yet"
        return
    fi
    dd if=/dev/vdd of=/dev/vdb bs=64k conv=notrunc,fsync 2>/dev/null
    dd if=/dev/vde of=/dev/vdc bs=512 count=1 conv=notrunc,fsync 2>/dev/null
    crash
}

# The page that the demo's server shows.
page() {
    echo "<!doctype html><title>$tag</title>"
    echo "<p>Hello from VM <b>$tag</b> under Merus: $(uname -sr), root on $root (ext4), up $(cut -d. -f1 /proc/uptime) s."
}

# The demo's two guests: each writes to a root of its own, of which the image in the bundle knows nothing.
own_root() {
    # Whoever has been here before?
    first=$(cat /etc/hostname 2>/dev/null)
    echo "$tag" >/etc/hostname
    sync
    hostname -F /etc/hostname
    echo "$tag: root is $(grep " / " /proc/mounts), ${first:-nobody} was here before"
    echo "127.0.0.1 localhost" >/etc/hosts
    echo "$address $tag" >>/etc/hosts
    network
}

web() {
    own_root || return
    mkdir -p /srv/www
    page >/srv/www/index.html
    size=4096
    dd if=/dev/urandom of=/srv/www/file bs=64k count=64 iflag=fullblock 2>/dev/null
    hash_of </srv/www/file >/srv/www/sum
    httpd -h /srv/www
    echo "web: up, http://$address/"
}

user() {
    own_root || return
    echo "$peer web" >>/etc/hosts
    first || return
    wget -q -O - http://web/
    wget -q -O /tmp/file http://web/file
    now=$(hash_of </tmp/file)
    if [ "$now" = "$sum" ]; then
        echo "demo: ok, 4 MiB from web with sha256 $now"
    else
        echo "demo: FAILED $now instead of $sum"
    fi
}
