import os
import stat

from tickdrive.planner.files import write_atomically


def test_a_file_is_replaced_and_a_pipe_is_written_to(tmp_path):
    file, pipe = tmp_path / "file", tmp_path / "pipe"
    file.write_bytes(b"old")
    write_atomically(file, b"new")
    assert file.read_bytes() == b"new"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(pipe, b"new")
    assert os.read(reader, 9) == b"new"
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)  # so it is with /dev/stdout, for whoever may write in /dev
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "pipe"]
