"""What a seed stands for: who sends what when, how the gateway answers, and what breaks."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from uuid import UUID

from mqworker.clockwork import TIMER_AFTER_CRON
from mqworker.message import ChatKey
from mqworker.settings import CANCEL_GRACE_SECONDS, load_settings
from mqworker.sweeps import HOLD_SECONDS
from tests.simulation.loop import START_SECONDS

SETTINGS = load_settings(
    _env_file=None,
    delay_min_seconds=0.2,
    delay_max_seconds=0.6,
    backoff_base_seconds=1.0,
    backoff_cap_seconds=2.5,
    executor_timeout_seconds=1.5,
    lease_seconds=3.0,
    renew_seconds=1.0,
    reclaim_every_seconds=1.0,
    reconcile_every_seconds=2.0,
    stale_after_seconds=20.0,
    drain_seconds=7.0,
)
CHAT_WAIT_SECONDS = 0.8
ACCOUNT_WAIT_SECONDS = 1.2
GATEWAY_SECONDS = 0.6
"""The longest that a message is under way to the gateway, and its reply from it."""
PRODUCING_SECONDS = 5.0
FAULTS_SECONDS = 7.0
CALM = 0.2
"""How often nothing breaks: then nobody may wait for a timer."""


class Deed(enum.Enum):
    """What one attempt to send comes to."""

    SEND = "sends"
    FAIL = "fails"
    FAIL_SENT = "sends, and fails all the same"
    PERMANENT = "can never be sent"
    WAIT_CHAT = "asks the chat to wait"
    WAIT_ACCOUNT = "asks the account to wait"
    HANG = "hangs"
    HANG_SENT = "sends, and hangs"
    CANCEL = "makes up a cancellation"
    STUBBORN = "ignores its cancellation"


_DEEDS = [
    (Deed.FAIL, 30),
    (Deed.FAIL_SENT, 15),
    (Deed.PERMANENT, 10),
    (Deed.WAIT_CHAT, 14),
    (Deed.WAIT_ACCOUNT, 10),
    (Deed.HANG, 9),
    (Deed.HANG_SENT, 5),
    (Deed.CANCEL, 5),
    (Deed.STUBBORN, 2),
]


class Break(enum.Enum):
    """What can go wrong."""

    CRASH = "a worker is killed"
    FREEZE = "a worker stands still"
    DRAIN = "a worker is told to stop"
    CUT_STORE = "a worker cannot reach PostgreSQL"
    CUT_REDIS = "a worker cannot reach Redis"
    FLUSH = "Redis is emptied"
    EMPTY = "Redis restarts with nothing"
    STALE = "Redis restarts with what it knew some time ago"
    REDIS_AWAY = "Redis is away"
    REDIS_HANGS = "Redis hangs"
    STORE_AWAY = "PostgreSQL is away"
    STORE_RESTARTS = "PostgreSQL restarts"
    STORE_HANGS = "PostgreSQL hangs"
    PRODUCER = "a producer is killed"


_BREAKS = [
    (Break.CRASH, 24),
    (Break.FREEZE, 18),
    (Break.DRAIN, 10),
    (Break.CUT_STORE, 8),
    (Break.CUT_REDIS, 5),
    (Break.FLUSH, 6),
    (Break.EMPTY, 4),
    (Break.STALE, 8),
    (Break.REDIS_AWAY, 6),
    (Break.REDIS_HANGS, 4),
    (Break.STORE_AWAY, 5),
    (Break.STORE_RESTARTS, 5),
    (Break.STORE_HANGS, 4),
    (Break.PRODUCER, 3),
]


@dataclass(frozen=True, slots=True)
class Letter:
    """One message and its fate at the gateway: a deed an attempt, then it is sent."""

    id: UUID
    id_is_callers: bool
    chat: ChatKey
    priority: int
    max_retries: int
    executor: str
    due_at: float | None
    deeds: Sequence[Deed]


class Act(enum.Enum):
    """What a producer does with a letter."""

    ENQUEUE = "enqueue"
    REPEAT = "enqueue again"
    FORGE = "enqueue other content under its id"
    CANCEL = "cancel"
    CLEAR = "clear its chat"
    COMMIT = "enqueue in a transaction that commits late"
    ROLL_BACK = "enqueue in a transaction that is rolled back"
    UNSEEN = "enqueue in a transaction whose commit nobody announces"


@dataclass(frozen=True, slots=True)
class Step:
    """A producer's step, after a pause. It waits for its end, or goes on at once."""

    pause_seconds: float
    act: Act
    letter: Letter
    waits: bool = True


@dataclass(frozen=True, slots=True)
class Fault:
    """``worker`` is meant where one is; it lasts ``seconds``, or is mended after them."""

    at_seconds: float
    kind: Break
    worker: int
    seconds: float
    in_flight: bool
    """Wait a while for the moment in which the worker has a message in flight."""


@dataclass(frozen=True, slots=True)
class Scenario:
    seed: int
    workers: int
    max_chats: int
    letters: Sequence[Letter]
    producers: Sequence[Sequence[Step]]
    faults: Sequence[Fault]
    slowest_seconds: float
    """The longest that a request may be under way, each way."""
    loss: float
    """How often a request or a reply gets lost while anything is allowed to break."""
    contention: float = 0.0
    others: Sequence[bool] = ()
    """Which workers have the second executor, too; the first one always has."""
    paced: bool = True
    """Whether there are gaps; without them a chat's next message follows at once, under the same lease."""

    @property
    def least_gap_seconds(self) -> float:
        return SETTINGS.delay_min_seconds if self.paced else 0.0

    @property
    def is_calm(self) -> bool:
        """Nothing breaks, and there is room for every chat in every worker."""
        return not self.faults and not self.loss and not self.has(Deed.STUBBORN)

    @property
    def pickup_seconds(self) -> float:
        """In calm, how long a message may wait for nothing: some requests, each of them slow."""
        return 0.05 + 8 * self.slowest_seconds

    @property
    def unannounced(self) -> set[UUID]:
        """What only reconcile finds."""
        return {step.letter.id for steps in self.producers for step in steps if step.act is Act.UNSEEN}

    def has(self, deed: Deed) -> bool:
        return any(deed in letter.deeds for letter in self.letters)

    @property
    def recovery_seconds(self) -> float:
        """How long all may take to end once nothing breaks any more: what the faults cost, then the backlog.

        A worker that dies in a sweep holds its duty until HOLD_SECONDS have passed.
        """
        sweeps = TIMER_AFTER_CRON * (SETTINGS.reclaim_every_seconds + SETTINGS.reconcile_every_seconds)
        # Both the row's lease and PostgreSQL's grace after its restart; then Redis' lock, which is a little longer.
        leases = 3.2 * SETTINGS.lease_seconds
        stuck = CANCEL_GRACE_SECONDS + SETTINGS.drain_seconds + SETTINGS.executor_timeout_seconds + leases
        latest = max((letter.due_at - START_SECONDS for letter in self.letters if letter.due_at), default=0.0)
        deeds = [deed for letter in self.letters for deed in letter.deeds]
        return HOLD_SECONDS + sweeps + leases + latest + stuck * deeds.count(Deed.STUBBORN) + self._backlog_seconds

    @property
    def _backlog_seconds(self) -> float:
        """All chats one after the other where there is room for few; else the longest."""
        trip = 8 * self.slowest_seconds + 2 * GATEWAY_SECONDS + SETTINGS.delay_max_seconds
        pause = max(SETTINGS.backoff_cap_seconds, ACCOUNT_WAIT_SECONDS) + SETTINGS.executor_timeout_seconds
        times: dict[ChatKey, float] = {}
        for letter in self.letters:
            times[letter.chat] = times.get(letter.chat, 0.0) + trip + len(letter.deeds) * (trip + pause)
        few = self.max_chats * self.workers < len(times)
        return sum(times.values()) if few else max(times.values())


def draw_scenario(seed: int) -> Scenario:
    """All of a run, from its seed."""
    rng = Random(seed)
    workers = rng.choice((1, 1, 2, 2, 2, 3, 4))
    chats = _draw_chats(rng)
    letters = [_draw_letter(rng, chats) for _ in range(5 + int(36 * rng.random() ** 3))]
    calm = rng.random() < CALM
    return Scenario(
        seed=seed,
        workers=workers,
        max_chats=10 if calm else rng.choice((1, 2, 3, 10, 10, 10)),
        letters=letters,
        producers=_draw_producers(rng, letters),
        faults=[] if calm else sorted(_draw_faults(rng, workers), key=lambda fault: fault.at_seconds),
        slowest_seconds=rng.choice((0.002, 0.02, 0.1)) if calm else rng.choice((0.002, 0.02, 0.02, 0.1, 0.4)),
        loss=0.0 if calm else rng.choice((0.0, 0.0, 0.005, 0.02, 0.05)),
        contention=0.0 if calm else rng.choice((0.0, 0.0, 0.1)),
        others=[True, *(calm or rng.random() < 0.5 for _ in range(workers - 1))],
        paced=rng.random() < 0.7,
    )


def _draw_chats(rng: Random) -> list[ChatKey]:
    accounts = ["shop", "bank"][: rng.choice((1, 1, 2))]
    return [ChatKey(rng.choice(accounts), f"c{n}") for n in range(rng.randint(1, 6))]


def _draw_letter(rng: Random, chats: Sequence[ChatKey]) -> Letter:
    # Most go at the first attempt; some take up to three, a few never go.
    trouble = 0 if rng.random() < 0.65 else rng.choice((1, 1, 1, 2, 3))
    kinds, weights = zip(*_DEEDS, strict=True)
    return Letter(
        id=UUID(int=rng.getrandbits(128), version=4),
        id_is_callers=rng.random() < 0.3,
        chat=rng.choice(chats),
        priority=rng.choice((0, 0, 0, 0, 0, 1, 5, -3)),
        max_retries=rng.choice((1, 2, 3, 3, 3, 5)),
        executor="other" if rng.random() < 0.1 else "default",
        due_at=START_SECONDS + rng.uniform(-1.0, 9.0) if rng.random() < 0.12 else None,
        deeds=rng.choices(kinds, weights, k=trouble),
    )


def _draw_producers(rng: Random, letters: Sequence[Letter]) -> list[list[Step]]:
    producers: list[list[Step]] = [[] for _ in range(rng.choice((1, 1, 2, 3)))]
    pace = PRODUCING_SECONDS / len(letters) * len(producers)
    known: list[Letter] = []
    for letter in letters:
        steps = rng.choice(producers)
        # Bursts and pauses: most come at once, after a few long silences.
        pause = 0.0 if rng.random() < 0.5 else rng.uniform(0.0, 3 * pace)
        if rng.random() < 0.06:
            # Nobody else may use its id: PostgreSQL would have him wait for the end of the transaction.
            steps.append(Step(pause, rng.choice((Act.COMMIT, Act.ROLL_BACK, Act.UNSEEN)), letter, waits=False))
            continue
        steps.append(Step(pause, Act.ENQUEUE, letter, waits=rng.random() < 0.6))
        known.append(letter)
        if rng.random() < 0.2:
            later = rng.choice((Act.REPEAT, Act.FORGE, Act.CANCEL, Act.CANCEL, Act.CLEAR))
            steps.append(Step(rng.uniform(0.0, 2.0), later, rng.choice(known)))
    return producers


def _draw_faults(rng: Random, workers: int) -> list[Fault]:
    kinds, weights = zip(*_BREAKS, strict=True)
    return [
        Fault(
            at_seconds=rng.uniform(0.0, FAULTS_SECONDS),
            kind=kind,
            worker=rng.randrange(workers),
            # A freeze is to outlast the lease more often than not, and to end while another worker has the message.
            seconds=rng.uniform(0.8, 2.2) * SETTINGS.lease_seconds if kind is Break.FREEZE else rng.uniform(0.1, 4.0),
            in_flight=rng.random() < 0.8,
        )
        for kind in rng.choices(kinds, weights, k=rng.choice((1, 1, 2, 2, 3, 4)))
    ]
