# Threads that only compute hand the interpreter's lock on, each sees the others go on.
import threading

THREADS, TURNS = 3, 20
steps = [0] * THREADS
turns = [0] * THREADS


def work(me):
    seen = list(steps)
    waits_for = set(range(THREADS)) - {me}
    # Others that are done do not go on.
    while min(turns) < TURNS:
        steps[me] += 1
        for other in list(waits_for):
            if steps[other] > seen[other] or turns[other] >= TURNS:
                waits_for.discard(other)
        if not waits_for:
            turns[me] += 1
            seen = list(steps)
            waits_for = set(range(THREADS)) - {me}


threads = [threading.Thread(target=work, args=(i,)) for i in range(THREADS)]
for t in threads:
    t.start()
for t in threads:
    t.join()
print("each saw the others go on", TURNS, "times:", min(turns) >= TURNS)
