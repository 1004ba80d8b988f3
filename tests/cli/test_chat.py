"""atom chat through a pipe, and on a pseudo-terminal as a person would use it."""
import os
import pty
import select
import signal
import subprocess
import time

from conftest import BINARY


def chat(atom, model, lines, *flags):
    result = atom("chat", model, "--temperature", "0", "--max-tokens", "8", *flags, stdin=lines)
    assert result.returncode == 0, result.stderr
    return result


def test_every_line_of_a_pipe_is_a_turn(atom, demo_model):
    result = chat(atom, demo_model, "Say hi.\nSay bye.")
    assert len(result.stdout.strip().splitlines()) >= 2
    assert result.stderr == "", "a pipe gets no decoration"
    assert "\x1b" not in result.stdout and "> " not in result.stdout


def test_reset_forgets_and_system_changes_the_answer(atom, demo_model):
    first = chat(atom, demo_model, "Say hi.\n").stdout
    again = chat(atom, demo_model, "Say hi.\n/reset\nSay hi.\n").stdout
    assert again == first * 2
    system = chat(atom, demo_model, "/system You are a pirate who says only arr.\nSay hi.\n").stdout
    flag = chat(atom, demo_model, "Say hi.\n", "--system", "You are a pirate who says only arr.").stdout
    assert system == flag != first


def test_lines_can_be_joined(atom, demo_model):
    block = chat(atom, demo_model, '"""one\ntwo"""\n').stdout
    backslash = chat(atom, demo_model, "one\\\ntwo\n").stdout
    assert block == backslash
    assert len(block.strip()) > 0


def test_help_and_unknown_commands_go_to_stderr(atom, demo_model):
    result = chat(atom, demo_model, "/help\n/nonsense\n\n   \n/exit\nnever read\n")
    assert "/reset" in result.stderr and "/nonsense: unknown command" in result.stderr
    assert result.stdout == ""


def test_a_full_context_is_said_and_the_next_turn_works(atom, demo_model):
    result = atom("chat", demo_model, "--temperature", "0", "--max-tokens", "4", "--max-model-len", "96",
                  stdin="word " * 200 + "\nSay hi.\n")
    assert result.returncode == 1, "one turn could not be answered"
    assert "maximum context length is 96 tokens" in result.stderr
    assert result.stdout.strip() != ""


class Terminal:
    """The program on a pseudo-terminal."""

    def __init__(self, *arguments):
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen([BINARY, *arguments], stdin=slave, stdout=slave, stderr=slave,
                                        preexec_fn=self.take_terminal, close_fds=True,
                                        env={**os.environ, "TERM": "xterm"})
        os.close(slave)
        self.seen = ""

    @staticmethod
    def take_terminal():
        os.setsid()
        import fcntl
        import termios
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def send(self, text):
        os.write(self.master, text.encode())

    def wait_for(self, text, seconds=60):
        end = time.monotonic() + seconds
        while text not in self.seen:
            assert time.monotonic() < end, f"waited for {text!r}, saw {self.seen[-500:]!r}"
            if select.select([self.master], [], [], 0.2)[0]:
                try:
                    self.seen += os.read(self.master, 65536).decode(errors="replace")
                except OSError:
                    assert text in self.seen, f"ended before {text!r}: {self.seen[-500:]!r}"

    def forget(self):
        self.seen = ""

    def close(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        os.close(self.master)


def test_ctrl_c_stops_the_answer_and_not_the_program(demo_model):
    terminal = Terminal("chat", demo_model, "--ignore-eos", "--max-tokens", "6000")
    try:
        terminal.wait_for("> ")
        terminal.send("Tell a long story.\r")
        terminal.wait_for("story.\x1b[K")
        terminal.forget()
        terminal.wait_for(" ")
        terminal.send("\x03")
        terminal.wait_for("(stopped)")
        terminal.wait_for("tokens/s")
        terminal.wait_for("> ")
        terminal.forget()
        terminal.send("/help\r")
        terminal.wait_for("/system TEXT")
        terminal.wait_for("stops the answer.\r\n\r> ")
        terminal.send("abc\x03")  # Ctrl-C while typing drops the line
        terminal.wait_for("^C\r\n")
        terminal.send("\x04")
        assert terminal.process.wait(timeout=30) == 0
    finally:
        terminal.close()


def test_line_editing_and_history(demo_model):
    terminal = Terminal("chat", demo_model)
    try:
        terminal.wait_for("> ")
        terminal.send("/hxelp\x1b[D\x1b[D\x1b[D\x7f\r")  # mend the x
        terminal.wait_for("/system TEXT")
        terminal.forget()
        terminal.send("\x1b[A\r")  # the same again from the history
        terminal.wait_for("/system TEXT")
        terminal.send("/exit\r")
        assert terminal.process.wait(timeout=30) == 0
    finally:
        terminal.close()
