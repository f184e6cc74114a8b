"""Noticing saves: what counts as one, and that nothing else does."""

from __future__ import annotations

import threading

from pratai.cli.saves import Saves


class Rounds:
    """Stands for the stop event: acts before each look, and stops after the last."""

    def __init__(self, *actions):
        self._actions = list(actions)

    def wait(self, _seconds):
        if not self._actions:
            return True
        action = self._actions.pop(0)
        if action is not None:
            action()
        return False


def test_a_save_is_noticed_once_it_is_still(tmp_path):
    path = tmp_path / "main.py"
    path.write_text("a")
    saves = Saves(path)
    rounds = Rounds(None, lambda: path.write_text(""), lambda: path.write_text("bb"), None)

    assert saves.wait(rounds)
    assert path.read_text() == "bb"
    assert not saves.wait(Rounds(None))


def test_replacing_a_file_by_renaming_is_a_save(tmp_path):
    path, fresh = tmp_path / "main.py", tmp_path / "fresh"
    path.write_text("a")
    saves = Saves(path)
    fresh.write_text("a")

    assert saves.wait(Rounds(lambda: fresh.rename(path), None))


def test_new_and_removed_files_of_a_folder_are_saves(tmp_path):
    (tmp_path / "sub").mkdir()
    saves = Saves(tmp_path)

    assert saves.wait(Rounds(lambda: (tmp_path / "sub" / "a.py").write_text("x"), None))
    assert saves.wait(Rounds((tmp_path / "sub" / "a.py").unlink, None))


def test_what_is_no_part_of_a_package_is_not_looked_at(tmp_path):
    (tmp_path / "__pycache__").mkdir()
    saves = Saves(tmp_path)

    assert not saves.wait(Rounds(lambda: (tmp_path / "__pycache__" / "a.pyc").write_text("x")))


def test_a_file_that_is_gone_for_a_moment_is_waited_for(tmp_path):
    path = tmp_path / "main.py"
    path.write_text("a")
    saves = Saves(path)

    assert saves.wait(Rounds(path.unlink, None, lambda: path.write_text("b"), None))
    assert path.exists()


def test_looking_is_bounded(tmp_path):
    for number in range(20):
        (tmp_path / f"{number}.py").write_text("x")

    assert len(Saves(tmp_path, files_max=5)._look()) == 5


def test_waiting_ends_with_the_stop_event(tmp_path):
    stop = threading.Event()
    stop.set()

    assert not Saves(tmp_path).wait(stop)
