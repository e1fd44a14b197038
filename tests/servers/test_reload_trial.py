"""Reloads that are tried first, without LiteLLM."""

from __future__ import annotations

import signal
from pathlib import Path

from supervised import Service, asked


def test_a_reload_that_answers_errors_is_taken_back_after_one_worker_s_share(
    service: Service,
) -> None:
    """The workers from before serve on, and are replaced when what is wrong is put right."""
    service.start(workers=2, settings={"reload_trial": 300})
    before = service.living()
    service.set_mode("failing")
    service.signal(signal.SIGHUP)
    service.wait_log("ready after", times=3)
    statuses = []
    while "The reload is taken back" not in service.log():
        client = service.client()
        statuses.append(client.status())
        client.close()
    assert "replies are errors, 0 of " in service.log()
    assert statuses.count(500) >= 3
    service.set_mode("good")
    assert set(service.wait_settled(2)) == set(before)
    assert service.client().pid() in before


def test_a_reload_whose_worker_does_well_or_cannot_start(service: Service) -> None:
    service.start(workers=2, settings={"reload_trial": 0.5})
    before = set(service.living())
    service.set_mode("broken")
    service.signal(signal.SIGHUP)
    service.wait_log("The reload is taken back")
    assert set(service.wait_settled(2)) == before
    service.set_mode("good")
    service.signal(signal.SIGHUP)
    service.wait_log("got no request in 0.5 s: the others are replaced untried")
    service.wait(lambda: not before & set(service.living()), "end of the first workers")
    assert len(service.wait_settled(2)) == 2


def test_a_few_clients_that_keep_their_connections_meet_the_new_worker_too(
    service: Service,
) -> None:
    """Those of a worker that has enough are told to come back, and find one that has none."""
    service.start(workers=2, settings={"reload_trial": 300})
    clients = [service.client() for _ in range(8)]
    for client in clients:
        client.get()
    service.set_mode("failing")
    service.signal(signal.SIGHUP)
    service.wait_log("ready after", times=3)
    while "The reload is taken back" not in service.log():
        for reply in [client.begin("/wait/0.3") for client in clients]:
            reply()
        clients[:] = [service.client() if each.told_to_close else each for each in clients]
    assert "replies are errors, 0 of " in service.log()


def test_a_watched_file_reloads_when_the_link_to_its_folder_is_swapped(
    service: Service, tmp_path: Path
) -> None:
    """As Kubernetes does with a ConfigMap; what was taken back is not tried again."""

    def publish(mode: str) -> None:
        folder = tmp_path / f"..{mode}"
        folder.mkdir()
        (folder / "mode").write_text(mode)
        (tmp_path / "..new").symlink_to(folder.name)
        (tmp_path / "..new").rename(tmp_path / "..data")

    (tmp_path / "mode").symlink_to("..data/mode")
    publish("first")
    service.start(workers=2, settings={"reload_trial": 0.1}, watched_config="mode")
    before = set(service.living())
    with asked(service):
        publish("second")
        service.wait_log("The new worker ")
        service.wait(lambda: not before & set(service.living()), "end of the first workers")
        before = set(service.wait_settled(2))
        publish("broken")
        service.wait_log("The reload is taken back")
        assert set(service.wait_settled(2)) == before
        assert service.client().get().endswith(" broken"), "the file is as it is"
    assert service.count("has changed: reloading") == 2
