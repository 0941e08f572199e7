"""Qualcomm AI Hub through its own client, and a record of what was sent there: `jobs.json`.

Whatever gets an id is recorded at once, so that a run that was interrupted is continued and nothing is sent twice.
"""

import contextlib
import difflib
import json
import logging
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from runtime.errors import UserError, require
from runtime.files import sha256_of, write_json
from runtime.signals import HeldSignals

RECORD = "jobs.json"
KEPT = ("export", "uploads", "jobs", "failed", "shared_with")  # of a Record, beside its settings
REQUIREMENTS = Path(__file__).parents[1] / "requirements-ai-hub.txt"
NO_TOKEN = "there is no token for AI Hub: run `qai-hub configure --api_token TOKEN` with that of your account page"
EARLY_JOBS = ("quantize", "compile")  # all jobs after one of them use the network that it makes

T = TypeVar("T")


class Record:
    """The contents of `jobs.json` in `folder`: ids of uploads and jobs by their names, and the settings they belong to.

    The settings, plain values by name, are all that decides what is uploaded. Raises UserError where the file is
    damaged, or belongs to other settings.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.path = folder / RECORD
        self.export: dict[str, Any] = {}  # of the exported network: `sha256`, `bytes`
        self.uploads: dict[str, dict[str, Any]] = {}  # `id`, `sha256`, `bytes` by name
        self.jobs: dict[str, dict[str, Any]] = {}  # `id`, `url` by name, in the order of submission
        self.failed: list[dict[str, Any]] = []  # jobs that were submitted again: `name`, `id`, `url`
        self.shared_with: list[str] = []  # addresses that the compile job was shared with
        self._settings = settings
        if self.path.exists():
            self._read()

    def _read(self) -> None:
        try:
            content = json.loads(self.path.read_text())
            before = dict(content.pop("settings"))
            for name in KEPT:
                setattr(self, name, type(getattr(self, name))(content[name]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{self.path} cannot be read: {error!r}; move it away to begin anew") from error
        if before != self._settings:
            names = [name for name in {**before, **self._settings} if before.get(name) != self._settings.get(name)]
            changes = ", ".join(_change(name, before.get(name), self._settings.get(name)) for name in names)
            raise UserError(
                f"{self.path.parent} holds a run with other settings ({changes}): give its settings to go on with it, "
                f"choose another --output-dir, or move {self.path} away to begin anew"
            )

    def save(self) -> None:
        """Writes the file, whole or not at all."""
        write_json(self.path, {"settings": self._settings, **{name: getattr(self, name) for name in KEPT}})

    def forget(self, name: str) -> None:
        """Moves a job to `failed`, together with those that depend on it, so that they are submitted again."""
        names = list(self.jobs)
        dropped = names[names.index(name) :] if name in EARLY_JOBS else [name]
        self.failed += [{"name": job, **self.jobs.pop(job)} for job in dropped]
        if "compile" in dropped:
            self.shared_with = []
        self.save()


def _change(name: str, before: Any, now: Any) -> str:
    if name.endswith("_sha256"):  # digits that nobody reads
        return f"the contents of {name.removesuffix('_sha256')} differ"
    return f"{name} was {before}, is {now}"


class AiHub:
    """AI Hub, with the ids of what was sent to it in `record`. Raises MissingExtra, or UserError without a token."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.package = require("qai_hub", REQUIREMENTS)
        self.client = self.package.Client()
        try:
            self._token: str = self.client.config.api_token
            self.client.set_verbose(False)
        except Exception:  # of configparser too, whose messages quote the file and with it the token
            raise UserError(NO_TOKEN) from None
        if not self._token:
            raise UserError(NO_TOKEN)
        logging.getLogger("urllib3").setLevel(logging.ERROR)  # it warns of each attempt of many

    def ask(self, doing: str, call: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """Calls the client. Raises UserError, which says what was being done, whatever the client raises."""
        try:
            with contextlib.redirect_stdout(sys.stderr):  # the client prints how long it waits for a rate limit
                return call(*args, **kwargs)
        except Exception as error:  # its own errors, those of requests and botocore, and ValueError
            raise UserError(f"{doing}: {self._reason(error)}") from None  # a cause could quote the token

    def _reason(self, error: Exception) -> str:
        text = re.sub(r"[\s|┌─┐└┘]+", " ", str(error)).strip() or type(error).__name__
        for word in self._token.split():  # requests quotes a header that it refuses
            text = text.replace(word, "***")
        text = text.rstrip(".")
        if isinstance(error, self.package.UserError):
            if text.startswith("Failed to authenticate"):
                return f"{text}. Run `qai-hub configure --api_token TOKEN`, then this command again"
            if "could not be found" in text:
                return f"{text}. Where {self.record.path} is of another account, move it away to begin anew"
            return text
        kind = "" if isinstance(error, self.package.Error) else f"{type(error).__name__}: "
        return f"{kind}{text}. Run the same command again to go on from there"

    def check_device(self, name: str) -> None:
        """Raises UserError if there is no device of this name, or the token is not accepted."""
        names = sorted({device.name for device in self.ask("listing AI Hub's devices", self.client.get_devices)})
        if name not in names:
            close = difflib.get_close_matches(name, names, n=3, cutoff=0.3)
            raise UserError(f"AI Hub has no device {name!r}. Similar ones: {', '.join(close) or 'none'}")

    def model(self, path: Path) -> Any:
        """The uploaded model file, which is uploaded now if it was not before."""
        known = self.record.uploads.get("model")
        if known and known["sha256"] == sha256_of(path):
            return self.ask(f"looking up model {known['id']}", self.client.get_model, known["id"])
        model = self.ask(f"uploading {path}", self.client.upload_model, str(path), name=path.name)
        self._note_upload("model", model.model_id, path)
        return model

    def dataset(self, name: str, write: Callable[[Path], object]) -> Any:
        """The uploaded data set `name`, which is written and uploaded now if it was not before, or has expired.

        `write` writes the `.h5` file, which is removed again.
        """
        if known := self.record.uploads.get(name):
            dataset = self.ask(f"looking up data set {known['id']}", self.client.get_dataset, known["id"])
            if not dataset.is_expired():
                return dataset
        path = self.record.path.with_name(f"{name}.h5")
        try:
            write(path)
            dataset = self.ask(f"uploading {path.name}", self.client.upload_dataset, str(path), name=path.stem)
            self._note_upload(name, dataset.dataset_id, path)
        finally:
            path.unlink(missing_ok=True)
        return dataset

    def _note_upload(self, name: str, identity: str, path: Path) -> None:
        size = path.stat().st_size
        self.record.uploads[name] = {"id": identity, "sha256": sha256_of(path), "bytes": size}
        self.record.save()
        print(f"uploaded {path.name}, {size / 2**20:.1f} MiB: {identity}", flush=True)

    def job(self, name: str, submit: Callable[[], Any]) -> Any:
        """The job `name` of the record; where there is none, that of `submit`, which calls the method of that name."""
        return self.recorded_job(name) if name in self.record.jobs else submit()

    def submit(self, name: str, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Submits a job and records its id, which Ctrl-C cannot prevent."""
        with HeldSignals(f"the id of the {name} job is known"):
            job = self.ask(f"submitting the {name} job", call, *args, **kwargs)
            self.record.jobs[name] = {"id": job.job_id, "url": job.url}
            self.record.save()
        print(f"{name} job {job.job_id}: {job.url}", flush=True)
        return job

    def recorded_job(self, name: str) -> Any:
        """The job `name` of the record."""
        identity = self.record.jobs[name]["id"]
        return self.ask(f"looking up the {name} job {identity}", self.client.get_job, identity)

    def finished(self, name: str, job: Any, what: str = "") -> Any:
        """Waits for a job and returns it. One that failed leaves the record, so that the next run submits it again.

        Raises UserError where it failed, with AI Hub's reason and the job's URL; `what` says what it worked on.
        """
        status = self.ask(f"waiting for the {name} job {job.job_id}", job.get_status)
        if not status.finished:
            print(f"waiting for the {name} job {job.job_id}", flush=True)
            status = self.ask(f"waiting for the {name} job {job.job_id}", job.wait)
        if status.failure:
            self.record.forget(name)
            reason = " ".join((status.message or "no reason is given").split()).rstrip(".")
            raise UserError(
                f"the {name} job {job.job_id}{what} failed: {reason}. Its log: {job.url}. Run the same command again "
                "to submit it anew"
            )
        return job

    def share(self, job: Any, addresses: Sequence[str]) -> None:
        """Shares a job, and with it its models, with the owners of these addresses, each once."""
        new = [address for address in addresses if address not in self.record.shared_with]
        if known := [address for address in addresses if address not in new]:
            print(f"job {job.job_id} is shared with {', '.join(known)} already", flush=True)
        if new:
            self.ask(f"sharing job {job.job_id} with {', '.join(new)}", job.modify_sharing, add_emails=new)
            self.record.shared_with += new
            self.record.save()
            print(f"shared job {job.job_id} with {', '.join(new)}", flush=True)
