"""Daemon threads in which requests are out."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable


class Workers:
    """As many as there are tasks at once.

    Not a ThreadPoolExecutor: that one joins its threads at exit, so Ctrl-C would wait for every
    request that is still out.
    """

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        # Reentrant, since the garbage collector may call `close` in a thread that holds it.
        self._lock = threading.RLock()
        self._threads = 0
        self._idle = 0

    def submit(self, task: Callable[[], None]) -> None:
        """Run a task in some thread; one is added when none is idle. Raises `RuntimeError` where
        the system gives no more, and then the task is not run."""
        with self._lock:
            if self._idle:
                self._idle -= 1
            else:
                name = f"qwen-embed-{self._threads + 1}"
                arguments = (self._tasks,)
                threading.Thread(target=self._work, name=name, args=arguments, daemon=True).start()
                self._threads += 1
            self._tasks.put(task)

    def close(self) -> None:
        """Let the threads end once their tasks are done; does not wait for them. Later tasks get
        threads and a queue of their own, so that none waits for a thread that is about to end."""
        with self._lock:
            threads, self._threads, self._idle = self._threads, 0, 0
            tasks, self._tasks = self._tasks, queue.SimpleQueue()
            for _ in range(threads):
                tasks.put(None)

    def _work(self, tasks: queue.SimpleQueue[Callable[[], None] | None]) -> None:
        while (task := tasks.get()) is not None:
            task()
            # Else the last job, and with it the provider, lives as long as the thread idles.
            del task
            with self._lock:
                if tasks is self._tasks:
                    self._idle += 1
