"""Who can be asked about a batch: the adapted model, by one kind of statistics or another, and the source.

They speak. Who is asked, and who is believed, the learner and its guard decide. All images are float32,
N x 3 x H x W in [0, 1]; all that is said are logits, N x C, whose softmax is a probability.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from adapters import Adapter
from adapters.parts.norms import FEWEST
from tta_daemon.model.load import Deployed
from tta_daemon.watch.canary import Recall


@dataclass(frozen=True, slots=True)
class Speakers:
    """The model as it was deployed, and as it was adapted."""

    deployed: Deployed
    adapter: Adapter

    @torch.no_grad()
    def source(self, images: Tensor) -> Tensor:
        """What the deployed model says."""
        frozen, classifier = self.deployed.frozen, self.deployed.classifier
        if frozen is not None:
            return frozen(images).logits
        return torch.cat([classifier(part) for part in classifier.portions(images)])

    def adapted(self, images: Tensor) -> Tensor:
        """What the adapter says by the statistics that it lives by."""
        return self.adapter.predict(images) / self.adapter.temperature

    def of_few(self, images: Tensor) -> Tensor:
        """As `adapted`, of so few images that their own statistics say little: the source's stand beside them."""
        return self.adapter.predict_mixed(images, FEWEST) / self.adapter.temperature

    def by(self, mixture: float, images: Tensor) -> Tensor | None:
        """As `adapted`, were so many images of the source mixed in for each of the batch; None where that fails."""
        lived = self.adapter.mixed
        self.adapter.mix(mixture)
        try:
            return self.repaired(self.adapted(images), images)[0]
        except (RuntimeError, ValueError):
            return None
        finally:
            self.adapter.mix(lived)

    def beside(self, others: Tensor, images: Tensor) -> Tensor | None:
        """As `adapted`, normalized together with other images; None where that fails."""
        try:
            both = self.adapted(torch.cat((images, others.to(images))))
            return self.repaired(both[: len(images)], images)[0]
        except (RuntimeError, ValueError):
            return None

    def grown_and_newborn(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What the adapter says, and what it said when it was born."""
        grown, memory = self.adapted(images), self.adapter.dump()
        self.adapter.rewind()
        try:
            return grown, self.adapted(images)
        finally:
            self.adapter.load(memory)

    def recall(self, turn: int) -> Recall | None:
        """How well labeled source images are answered, other ones for each ``turn``; None where nobody can say.

        Statistics that follow the stream answer them badly while they do well: there it says nothing of the weights.
        """
        known = self.deployed.known
        if known is None or known.canary is None or self.adapter.follows_stream:
            return None
        images, labels = known.canary
        turns = max(1, len(labels) // known.manifest.batch)
        mine = slice(turn % turns, None, turns)  # of every class, where they lie in order of their classes
        seen = images[mine].to(self.deployed.classifier.mean.device).float() / 255
        try:
            said = self.grown_and_newborn(seen)
        except (RuntimeError, ValueError):  # the stream finds out whether the method is at fault
            return None
        return Recall(*(int((logits.argmax(1).cpu() == labels[mine]).sum()) for logits in said))

    def repaired(self, said: Tensor, images: Tensor) -> tuple[Tensor, int]:
        """Where that is not finite, the source speaks instead; and for how many images."""
        broken = ~torch.isfinite(said).all(1)
        count = int(broken.sum())
        return (torch.where(broken[:, None], self.source(images), said) if count else said), count
