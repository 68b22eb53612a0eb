"""The way to an upstream: names, TCP, proxies' handshakes, TLS, before a request's first byte.

connector ─▶ hops ─▶ line          which way · through which proxies · one socket
probe · look                       a dial for its own sake · for a certificate's sake
trust · diagnosis                  whom to believe · what a failure means
"""
