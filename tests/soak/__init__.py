"""Endurance: an hour of streams, whole and broken in every way, and a ledger of all of them.

    make soak                                   an hour; MINUTES=5, ARGS="--clients 100"

    visitors ─▶ relay (a process) ─▶ proxies, steady and shaky ─▶ upstream (a process)
        │           │ log, /metrics, /status.json, /proc
        └───────────┴─▶ ledger ─▶ the rules, and the first thing that broke one

    kinds      what can happen to a stream, and what may become of it
    upstream   the process that plays the API and the steady proxies
    relay      the relay's process, which also says what it still holds
    visitors   what clients do
    ledger     each stream's account: what the client saw, what the log says; the rules
    gauge      the relay from outside: memory, descriptors, counts
    closing    what is left at the end, and the ledger as it is printed
    rig        the processes, started and stopped
    run        one run of all of them; __main__ is the command

The text of an answer follows from its name, so that both sides of the relay know it.
"""
