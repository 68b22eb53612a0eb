"""Teleprinter: reads a language model's token stream through a proxy, relays it as SSE.

    client ─▶ web ─▶ gateway ─▶ relay ─▶ egress ─▶ upstream ─▶ sse ─▶ dialect ─▶ replay
    client ◀─ outlet ◀─ pacing ◀─ view ◀──────────────────────────────────────────┘

    layer  modules                                                      what they do
    7      __main__                                                     the command line
    6      app                                                          knows them all; start, stop
    5      web · demo                                                   HTTP: handlers, errors
    4      gateway                                                      request → stream
    3      relay                                                        the life of one stream
    2      settings, sources, draft · adapters/*                        wait, never decide
    1      core/*                                                       decide, never wait
    0      errors · core/events, proxy, secret                          the nouns

A module imports from lower layers, and within `core` and `adapters` from what it builds on.
"""

__version__ = "0.1.0"
