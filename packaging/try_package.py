#!/usr/bin/env python3
"""Try the Debian package under a booted systemd: `make test-package`, as root.

A small system of this machine's own distribution is made once, copied, and booted by systemd-nspawn, with /dev/fuse and
a network of its own. There the package is installed, used by the machine and by a person, watched by Prometheus,
upgraded under a mount that is written to, rebooted, removed, installed again and purged. The first failure ends it,
with the journal's last words.
usage: try_package.py PACKAGE DIRECTORY; DIRECTORY keeps the system for the next time.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from machine import ENVIRONMENT, Machine, booted, until

MOST_EXPOSED: Final = 3.0
"""The worst that `systemd-analyze security` may say of a daemon."""
INCLUDED: Final = (
    "systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,ca-certificates,man-db,bash-completion,polkitd,"
    "zsh,fish,prometheus"
)
NEXT: Final = "+next"
WRITER: Final = """
set -eu
n=0
while [ ! -e /root/stop ]; do
    n=$((n + 1))
    head -c $((n * 977 % 400000 + 1)) /dev/urandom >/root/piece
    cp /root/piece /srv/photos/during-$n
    sha256sum </root/piece | sed "s| .*|  /srv/photos/during-$n|" >>/root/during.sums
done
"""
TYPED: Final = r"""
zmodload zsh/zpty
zpty terminal zsh -fi
zpty -w terminal 'autoload -Uz compinit; compinit -u; print -r rea""dy'
zpty -r terminal answer '*ready*'
zpty -w -n terminal $'p2pfs volu\t'
zpty -r terminal answer '*volume*'
print -r -- "$answer"
"""
"""What a person types into zsh, up to the Tab."""
METRICS: Final = {"coordinator": "127.0.0.1:9475", "peer": "127.0.0.1:9476", "mount": "127.0.0.1:9477"}
EXAMPLES: Final = "/usr/share/doc/p2pfs/examples"
ASK: Final = """python3 -c 'import sys; from urllib import parse, request
print(request.urlopen(sys.argv[1] + "?" + parse.urlencode({"query": sys.argv[2]})).read().decode())'"""
DAEMONS: Final = ("p2pfs-coordinator.service", "p2pfs-peer.service")


def say(words: str) -> None:
    print(words, flush=True)


# ---- the machine and its packages -----------------------------------------------------------------------------------


def make_tree(package: Path, directory: Path) -> Path:
    """A fresh copy of a system that has everything the package depends on, but not the package."""
    base, tree = directory / "base", directory / "machine"
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    ready = directory / "base.ready"
    if not ready.exists() or ready.read_text() != INCLUDED:
        say("making a small system (debootstrap)")
        ready.unlink(missing_ok=True)
        shutil.rmtree(base, ignore_errors=True)
        command = ["debootstrap", "--variant=minbase", f"--include={INCLUDED}", release["VERSION_CODENAME"], str(base)]
        call(command, 900)
        shutil.copy("/etc/resolv.conf", base / "etc/resolv.conf")
        (base / "etc/machine-id").write_text("")
        ready.write_text(INCLUDED)
    # In the machine there is no network: what the package needs is there before.
    wanted = call(["dpkg-deb", "--field", str(package), "Depends"], 60)
    call(["chroot", str(base), *ENVIRONMENT, "apt-get", "update", "-qq"], 300)
    call(["chroot", str(base), *ENVIRONMENT, "apt-get", "satisfy", "-qq", "-y", "--no-install-recommends", wanted], 600)
    shutil.rmtree(tree, ignore_errors=True)
    call(["cp", "-a", "--reflink=auto", str(base), str(tree)], 300)
    return tree


def next_version(package: Path, into: Path) -> Path:
    """The same package under a higher version: an upgrade replaces every file all the same."""
    work = into / "next"
    shutil.rmtree(work, ignore_errors=True)
    call(["dpkg-deb", "--raw-extract", str(package), str(work)], 120)
    control = work / "DEBIAN/control"
    control.write_text(re.sub(r"(?m)^(Version: .*)$", rf"\1{NEXT}", control.read_text()))
    call(["dpkg-deb", "--root-owner-group", "-Zgzip", "--build", str(work), str(into / "next.deb")], 300)
    shutil.rmtree(work)
    return into / "next.deb"


def call(command: list[str], timeout_s: float) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode:
        raise SystemExit(f"FAILED ({done.returncode}): {' '.join(command)}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout.strip()


# ---- what is tried --------------------------------------------------------------------------------------------------


def installed(machine: Machine) -> None:
    machine.output("apt-get install -y --no-install-recommends /root/first.deb", timeout_s=300)
    machine.output("p2pfs version && man -w p2pfs p2pfs-volume-create mount.p2pfs p2pfs-config >/dev/null")
    machine.output("test -z \"$(dpkg -L p2pfs | grep -E '^/s?bin/')\"")
    machine.output("test -x /sbin/mount.p2pfs && getent passwd p2pfs && test -d /etc/p2pfs/mounts")
    machine.output("test $(stat -c %a /etc/p2pfs/mounts) = 700 && test ! -e /var/lib/p2pfs")
    machine.output("systemd-analyze verify p2pfs-coordinator.service p2pfs-peer.service p2pfs-mount@photos.service")
    completed = ". /usr/share/bash-completion/bash_completion; . /usr/share/bash-completion/completions/p2pfs;"
    completed += "COMP_WORDS=(p2pfs vol); COMP_CWORD=1; _p2pfs_completion p2pfs; echo ${COMPREPLY[*]}"
    assert machine.output(f"set +u; {completed}") == "volume"
    assert "volume\t" in machine.output("fish -c 'complete -C \"p2pfs vol\"'")
    assert "p2pfs volume" in machine.output('zsh -fc "$SCRIPT"', SCRIPT=TYPED)
    for unit in (*DAEMONS, "p2pfs-mount@photos.service"):
        words = machine.output(f"systemd-analyze security --no-pager {unit} | tail -n 1")
        say(f"  {words.lstrip('→ ')}")
        found = re.search(r"([\d.]+) [A-Z]", words)
        assert found is not None, words
        assert unit not in DAEMONS or float(found[1]) <= MOST_EXPOSED, words
    assert machine.output("systemctl is-enabled p2pfs-peer || true") == "disabled", "nobody asked for it"


def used_by_the_machine(machine: Machine) -> None:
    machine.output("""
        p2pfs init --name club --node root@server --address 127.0.0.1:9470 --kit-file /root/kit \
            --set replicas=2 --set min_replicas=1 --set listen=127.0.0.1:9470
        sed -i /listen/d /var/lib/p2pfs/config.toml
        systemctl enable --now p2pfs-coordinator p2pfs-peer
        test $(stat -c %U /var/lib/p2pfs/node.json) = p2pfs
        umask 077
        echo correct horse battery >/etc/p2pfs/mounts/photos.passphrase
        cp /etc/p2pfs/mounts/photos.passphrase /etc/p2pfs/mounts/home.passphrase
        for volume in photos home; do
            p2pfs volume create $volume --passphrase-file /etc/p2pfs/mounts/$volume.passphrase \
                --recovery-file /root/$volume.recovery
        done
        cp /usr/share/doc/p2pfs/examples/photos.conf /etc/p2pfs/mounts/
        mkdir -m 755 /srv/photos /mnt/pool
        systemctl enable --now p2pfs-mount@photos
        findmnt -t fuse.p2pfs /srv/photos
        echo 'home /mnt/pool p2pfs _netdev,nofail,x-systemd.automount 0 0' >>/etc/fstab
        systemctl daemon-reload
        systemctl start remote-fs.target mnt-pool.automount
    """)
    assert machine.output("findmnt -no FSTYPE /mnt/pool") == "autofs", "nobody has looked there yet"
    write(machine, "/srv/photos", "photos")
    write(machine, "/mnt/pool", "home")
    assert "fuse.p2pfs" in machine.output("findmnt -no FSTYPE /mnt/pool")
    # What root writes into the home, the services' user must be able to read.
    machine.output("""
        systemctl stop p2pfs-coordinator p2pfs-peer
        p2pfs coordinator kit --yes --kit-file /root/kit2
        p2pfs share storage=5G
        systemctl start p2pfs-coordinator p2pfs-peer
        systemctl is-active p2pfs-coordinator p2pfs-peer
        test -z "$(find /var/lib/p2pfs/config.toml /var/lib/p2pfs/tls /var/lib/p2pfs/coordinator ! -user p2pfs)"
    """)
    # 20: one peer is fewer than the two copies wanted.
    until("root's doctor finds nothing broken", lambda: machine.run("p2pfs doctor").returncode in (0, 20), 40)
    machine.output("! grep -rq 'correct horse' /proc/$(systemctl show -P MainPID p2pfs-mount@photos)/environ")


def sealed(machine: Machine) -> None:
    """A mount's passphrase as the machine's own key seals it, and nowhere else."""
    machine.output("""
        cd /etc/p2pfs/mounts
        systemd-creds encrypt --with-key=host --name=passphrase photos.passphrase photos.cred
        mv photos.passphrase /root/
        dropin=/etc/systemd/system/p2pfs-mount@photos.service.d
        mkdir $dropin
        printf '[Service]\\nLoadCredential=\\nLoadCredentialEncrypted=passphrase:/etc/p2pfs/mounts/photos.cred\\n' \\
            >$dropin/override.conf
        systemctl daemon-reload
        systemctl restart p2pfs-mount@photos
    """)
    everything_is_there(machine)
    machine.output("""
        mv /root/photos.passphrase /etc/p2pfs/mounts/
        rm -r /etc/systemd/system/p2pfs-mount@photos.service.d /etc/p2pfs/mounts/photos.cred
        systemctl daemon-reload
        systemctl restart p2pfs-mount@photos
    """)


def write(machine: Machine, where: str, name: str) -> None:
    machine.output(f"""
        mkdir {where}/tree; head -c 30M /dev/urandom >{where}/tree/large
        for n in $(seq 40); do head -c $((n * 3001)) /dev/urandom >{where}/tree/$n; done
        find {where}/tree -type f -print0 | xargs -0 sha256sum >/root/{name}.sums
    """)


def used_by_a_person(machine: Machine) -> None:
    """A peer and a mount as services of her own."""
    machine.output("""
        useradd --create-home anna; loginctl enable-linger anna
        p2pfs invite anna@desk --roles client,peer >/run/invite; chown anna /run/invite
    """)
    until(
        "her service manager runs",
        lambda: anna(machine, "systemctl --user is-active default.target").returncode == 0,
        30,
    )
    done = anna(machine, """
        p2pfs join /run/invite
        systemctl --user enable --now p2pfs-peer
        mkdir -p ~/.config/p2pfs/mounts ~/notes; umask 077
        echo a passphrase of hers >~/.config/p2pfs/mounts/notes.passphrase
        printf 'VOLUME=notes\\nMOUNT_POINT=/home/anna/notes\\n' >~/.config/p2pfs/mounts/notes.conf
        p2pfs volume create notes --passphrase-file ~/.config/p2pfs/mounts/notes.passphrase --recovery-file ~/recovery
        systemctl --user enable --now p2pfs-mount@notes
        echo hello >~/notes/hello; findmnt -t fuse.p2pfs ~/notes
    """)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def anna(machine: Machine, script: str) -> subprocess.CompletedProcess[str]:
    return machine.run(
        'runuser -u anna -- env HOME=/home/anna XDG_RUNTIME_DIR=/run/user/$(id -u anna) bash -euc "$SCRIPT"',
        SCRIPT=script,
    )


def monitored(machine: Machine) -> None:
    """By a real Prometheus with our rules; it is asked what the dashboard for Grafana asks."""
    machine.output(f"""
        for part in coordinator peer; do
            port=9475; test $part = coordinator || port=9476
            echo "OPTIONS=--set metrics_listen=127.0.0.1:$port" >/etc/default/p2pfs-$part
        done
        sed -i 's/^OPTIONS=.*/&,metrics_listen={METRICS["mount"]}/' /etc/p2pfs/mounts/photos.conf
        systemctl restart p2pfs-coordinator p2pfs-peer p2pfs-mount@photos
        cp {EXAMPLES}/p2pfs-alerts.yml /etc/prometheus/
        promtool check rules /etc/prometheus/p2pfs-alerts.yml
    """)
    targets = json.dumps(list(METRICS.values()))
    machine.output('echo "$CONFIG" >/etc/prometheus/prometheus.yml; systemctl restart prometheus', CONFIG=f"""
global: {{scrape_interval: 2s, evaluation_interval: 2s}}
rule_files: [p2pfs-alerts.yml]
scrape_configs: [{{job_name: p2pfs, static_configs: [{{targets: {targets}}}]}}]
""")  # fmt: skip
    until("all three are scraped", lambda: len(told(machine, "up == 1")) == len(METRICS), 60)
    machine.output(
        f"cat /srv/photos/tree/* >/dev/null; ls -lR /srv/photos >/dev/null; cp {EXAMPLES}/* /srv/photos/tree/"
    )
    machine.output("rmdir /srv/photos/tree || true")  # an error to be counted
    dashboard = json.loads(machine.output(f"cat {EXAMPLES}/p2pfs-dashboard.json"))
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    asked = {text: text.replace("$job", ".*").replace("$__rate_interval", "1m") for text in expressions}
    until("each panel has a figure", lambda: all(told(machine, query) for query in asked.values()), 90)
    rules = json.loads(machine.output(f"{ASK} http://127.0.0.1:9090/api/v1/rules none"))["data"]["groups"]
    states = [(rule["name"], rule["health"], rule["state"]) for group in rules for rule in group["rules"]]
    wrong = [state for state in states if state[1:] != ("ok", "inactive")]
    say(f"  {len(asked)} queries of the dashboard answered, {len(states)} alerts, waiting or firing: {wrong or 'none'}")
    assert all(health == "ok" for _, health, _ in states), wrong
    machine.output("systemctl disable --quiet --now prometheus")


def told(machine: Machine, query: str) -> list[object]:
    """What Prometheus answers: a figure for each of something; nothing while it starts."""
    done = machine.run(f'{ASK} http://127.0.0.1:9090/api/v1/query "$QUERY"', QUERY=query)
    if done.returncode:
        return []
    answer = json.loads(done.stdout)
    assert answer["status"] == "success", (query, answer)
    found: list[object] = answer["data"]["result"]
    return found


def main_pid(machine: Machine, unit: str) -> int:
    return int(machine.output(f"systemctl show -P MainPID {unit}"))


def watched(machine: Machine) -> None:
    """A daemon that hangs is ended by the watchdog and comes back."""
    machine.output("""
        mkdir -p /run/systemd/system/p2pfs-peer.service.d
        printf '[Service]\\nWatchdogSec=3s\\n' >/run/systemd/system/p2pfs-peer.service.d/soon.conf
        systemctl daemon-reload; systemctl restart p2pfs-peer; sleep 7; systemctl is-active p2pfs-peer
    """)
    before = main_pid(machine, "p2pfs-peer")
    machine.output(f"kill -STOP {before}")
    until("the peer was started anew", lambda: main_pid(machine, "p2pfs-peer") not in (0, before), 40)
    machine.output("journalctl -u p2pfs-peer | grep -q 'Watchdog timeout'")
    machine.output(
        "rm -r /run/systemd/system/p2pfs-peer.service.d; systemctl daemon-reload; systemctl restart p2pfs-peer"
    )


def upgraded(machine: Machine) -> None:
    """Under two mounts, one of which is written to all the time."""
    mount, peer = main_pid(machine, "p2pfs-mount@photos"), main_pid(machine, "p2pfs-peer")
    machine.output('systemd-run --quiet --unit=writer bash -c "$SCRIPT"', SCRIPT=WRITER)
    machine.output("exec 9</srv/photos/tree/large; head -c 1M <&9 >/dev/null;"
                   " apt-get install -y --no-install-recommends /root/next.deb 2>&1 | tr -d '\\r' >/root/upgrade.log;"
                   " test $(cat <&9 | wc -c) = $((29 << 20))", timeout_s=300)  # fmt: skip
    machine.output("grep -qx '  /srv/photos' /root/upgrade.log && grep -qx '  /mnt/pool' /root/upgrade.log")
    assert main_pid(machine, "p2pfs-mount@photos") == mount, "the mount was ended"
    assert main_pid(machine, "p2pfs-peer") not in (0, peer), "the peer runs the version before"
    machine.output("sleep 5; touch /root/stop; while systemctl -q is-active writer; do sleep 0.3; done")
    machine.output("test $(systemctl show -P Result writer) = success")
    say(f"  {machine.output('wc -l </root/during.sums')} files were written meanwhile")
    everything_is_there(machine)
    machine.output("systemctl restart p2pfs-mount@photos; systemctl is-active p2pfs-mount@photos")
    assert main_pid(machine, "p2pfs-mount@photos") != mount
    everything_is_there(machine)


def everything_is_there(machine: Machine) -> None:
    machine.output("sha256sum --quiet -c /root/photos.sums /root/home.sums", timeout_s=180)
    machine.output("if [ -e /root/during.sums ]; then sha256sum --quiet -c /root/during.sums; fi", timeout_s=180)


def rebooted(machine: Machine) -> None:
    """Written just before, so that unmounting has something to wait for; then all comes back by itself."""
    machine.output("head -c 20M /dev/urandom >/srv/photos/last; sha256sum /srv/photos/last >>/root/photos.sums")
    machine.shut_down()
    machine.boot()
    until("the mount is back", lambda: machine.run("findmnt -t fuse.p2pfs /srv/photos").returncode == 0, 60)
    everything_is_there(machine)
    until("hers is back", lambda: anna(machine, "grep -qx hello ~/notes/hello").returncode == 0, 60)


def removed_and_installed_again(machine: Machine) -> None:
    """Not while somebody uses a mount; then data stays, and comes back."""
    refused = machine.run("cd /srv/photos; apt-get remove -y p2pfs", timeout_s=180)
    assert refused.returncode != 0, "removed under a mount in use"
    assert "still mounted" in refused.stderr + refused.stdout, refused.stderr
    machine.output("systemctl is-active p2pfs-mount@photos")
    everything_is_there(machine)
    done = anna(machine, "systemctl --user stop p2pfs-mount@notes p2pfs-peer")
    assert done.returncode == 0, done.stderr
    machine.output("mkdir '/srv/my photos'; mount -t p2pfs photos '/srv/my photos'; ls '/srv/my photos/tree'")
    machine.output("apt-get remove -y p2pfs", timeout_s=300)
    machine.output("test -e /var/lib/p2pfs/node.json -a -e /etc/p2pfs/mounts/photos.passphrase -a ! -e /usr/lib/p2pfs")
    machine.output('test -z "$(findmnt --noheadings --types fuse.p2pfs || true)"')
    for unit in (*DAEMONS, "p2pfs-mount@photos"):
        assert machine.output(f"systemctl is-active {unit} || true") != "active", unit
    machine.output("apt-get install -y --no-install-recommends /root/next.deb", timeout_s=300)
    machine.output("systemctl start p2pfs-coordinator p2pfs-peer p2pfs-mount@photos mnt-pool.automount")
    everything_is_there(machine)


def purged(machine: Machine) -> None:
    """Where nobody can be asked, everything stays; told to, everything goes."""
    machine.output("systemctl stop mnt-pool.automount; apt-get purge -y p2pfs 2>&1", timeout_s=300)
    machine.output("test -e /var/lib/p2pfs/node.json -a -e /etc/p2pfs/mounts/photos.passphrase")
    machine.output("apt-get install -y --no-install-recommends /root/next.deb", timeout_s=300)
    machine.output("mount --bind /var/lib/p2pfs /var/lib/p2pfs")  # as where its home is on a disk of its own
    machine.output("echo p2pfs p2pfs/purge-data boolean true | debconf-set-selections; apt-get purge -y p2pfs")
    machine.output("umount /var/lib/p2pfs; rmdir /var/lib/p2pfs")  # there is nothing in it
    machine.output("test ! -e /etc/p2pfs -a ! -e /usr/lib/p2pfs")


STEPS: Final = (
    installed, used_by_the_machine, sealed, used_by_a_person, monitored, watched, upgraded, rebooted,
    removed_and_installed_again, purged,
)  # fmt: skip


def main(package: Path, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    tree = make_tree(package, directory)
    shutil.copy(package, tree / "root/first.deb")
    shutil.move(next_version(package, directory), tree / "root/next.deb")
    (directory / "boot.log").unlink(missing_ok=True)
    began = time.monotonic()
    with booted(tree, directory / "boot.log") as machine:
        for step in STEPS:
            say(f"{time.monotonic() - began:5.0f} s  {step.__name__.replace('_', ' ')}")
            step(machine)
        grave = machine.output("journalctl --no-pager -b all -p err -o cat -t p2pfs || true")
        say(f"errors in the journal: {grave or 'none'}")
    shutil.rmtree(tree)
    say("the package works")


if __name__ == "__main__":
    if os.geteuid() != 0:
        sys.exit("this boots a machine of its own: run it as root")
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
