"""The frames of a stream between its upstream and its readers.

unkept              one reader, a window, and no way back
log                 every frame, any number of readers; kept in
memory              this process, or in
redis               what several share, by its feed, its outbox and the words in `shared`
"""
