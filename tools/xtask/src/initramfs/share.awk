# How long the guest had its CPU between two seconds of the RTC: the time in which the kernel's clock, asked again and again, went on by
# less than one and a half milliseconds; each longer step was somebody else's turn. Between two looks there is work: steps of a generator
# whose 10,000th number from 1 on is known (Park and Miller's check of an implementation).
# Variables: rtc, tag, to, until.
BEGIN {
    x = 1
    clock = "/proc/timer_list"
    for (;;) {
        for (i = 0; i < 5; i++)
            x = x * 16807 % 2147483647
        if (++rounds % 2000 == 0) {
            if (x != 1043618065) {
                print "share: FAILED: " x
                exit
            }
            x = 1
        }
        getline <clock
        getline <clock
        getline line <clock
        close(clock)
        split(line, word, " ")
        step = word[3] - last
        last = word[3]
        if (step < 1500000) {
            had += step
            own++
        } else if (own) {
            had += had / own
            turns++
        }
        # Now and then: an access of a device costs more than a look at the clock.
        if (rounds % 10)
            continue
        getline now <rtc
        close(rtc)
        if (now >= until)
            break
        if (now < to) {
            done = rounds
            time = had
            gone = turns
        }
    }
    printf "had %s %d us in %d turns, %d rounds\n", tag, time / 1000, gone + 1, done
}
