"""What a token costs: the relay beside nginx, Envoy and others, measured in one sitting.

    make bench               everything that is installed; writes benchmarks/results/
    make bench ARGS=--quick  under a minute: fewer peers, streams and rounds
    make bench-peers         gets the peers, into build/bench/peers, not into the system

    load ═▶ relay or peer ═▶ upstream           __main__   the command line
    (C)     (its own core)   (C)                workloads  what is measured
                                                lab        one measurement of one target
    Every answer is checked: all tokens,        relay      `teleprinter serve` as users start it
    in order, of one stream. CPU is the         peers      the others, and how to get them
    target's own utime + stime. Rounds          rig        upstream and load, and their build
    are interleaved, ratios are made            tunnel     TLS and SOCKS5 on the way out
    within a round.                             processes  start, pin, look at, stop
                                                report     medians, ratios, table, plot

Linux only (epoll, /proc); needs a C compiler. Everything listens on 127.0.0.1, on free ports.
"""
