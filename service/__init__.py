"""Teleprinter: reads a language model's token stream through a proxy, relays it as SSE.

    client ─▶ web ─▶ gateway ─▶ relay ─▶ egress ─▶ upstream ─▶ sse ─▶ dialect ─▶ replay
    client ◀─ outlet ◀─ pacing ◀─ view ◀──────────────────────────────────────────┘

    layer  modules                                                      what they do
    8      __main__                                                     the command line
    7      server                                                       the process: signals, drain
    6      app · doctor/command                                         put the parts together
    5      boundary · web · responses · answers · resuming · status     HTTP: who, what, how
           demo                                                         an upstream to try it with
           greeting                                                     what a start says
           doctor/*                                                     what the doctor tries
    4      gateway                                                      request → stream
    3      relay · gate · streams · listening                           one stream · all · sockets
    2      settings · draft · sources · adapters/*                      wait, never decide
    1      core/*                                                       decide, never wait
    0      errors · core/events, proxy, secret                          the nouns

A module imports from lower layers, and within `core` and `adapters` from what it builds on.
"""

__version__ = "0.1.0"
