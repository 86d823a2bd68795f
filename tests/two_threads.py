"""One session, asked by two threads at a time."""

from __future__ import annotations

import threading

import numpy as np


def wrong_answers(session, images, times):
    """The heads that two threads, each with its own one of two images, got otherwise than a single one."""
    expected, wrong = [session.run(image) for image in images], []

    def work(index):
        for _ in range(times):
            found = session.run(images[index])
            wrong.extend(name for name, values in expected[index].items() if not np.array_equal(found[name], values))

    workers = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return wrong
