"""`visionsam annotate serve` in a process of its own, to be killed and started again."""

import signal
import subprocess
import sys
import time

import psutil

from tests.annotation.browser import Client


class Server:
    """`options` are the command's; what it prints goes into the file `said`."""

    def __init__(self, said, port, **options):
        options = [word for key, value in options.items() for word in (f"--{key}", str(value))]
        self._command = [sys.executable, "-m", "visionsam_hf", "annotate", "serve", "--port", str(port), *options]
        self._said = said
        self.address = f"http://127.0.0.1:{port}"

    def start(self):
        with self._said.open("a") as file:
            self.process = subprocess.Popen(self._command, stdout=file, stderr=subprocess.STDOUT)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def end(self):
        self.process.terminate()
        self.process.wait()

    def client(self, token):
        """A client, when the server answers."""
        deadline = time.monotonic() + 600
        while True:
            try:
                return Client(self.address, token)
            except OSError:
                assert self.process.poll() is None and time.monotonic() < deadline, self.said
                time.sleep(0.1)

    @property
    def said(self):
        return self._said.read_text()

    def commands(self, word):
        """The processes that it started, of the command `word`."""
        found = []
        for one in psutil.Process(self.process.pid).children(recursive=True):
            try:
                found += [one] * (word in one.cmdline())
            except psutil.Error:
                pass  # gone since
        return found
