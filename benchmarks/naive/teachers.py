"""Methods with a teacher that move every tensor, written naively."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from adapters import Classifier
from adapters.cotta import CottaOptions
from adapters.parts.dice import Dice
from adapters.petal import PetalOptions, PetalPrior
from adapters.rmt import RmtOptions, RmtPrior, projector

from .pieces import by_batch, cross, follow, learning, optimizer, restore, view, views


class Cotta:
    """Student, teacher and anchor are copies; views come one by one, and the unused plain answer is made as well."""

    def __init__(self, classifier: Classifier, options: CottaOptions, _prior: object = None, seed: int = 0) -> None:
        self.options = options
        self.student = by_batch(classifier, affine_only=False)
        self.teacher, self.anchor = copy.deepcopy(self.student), copy.deepcopy(self.student)
        for network in (self.teacher, self.anchor):
            network.requires_grad_(False)
        self.source = copy.deepcopy(dict(self.student.named_parameters()))
        self.optimizer = optimizer(learning(self.student), options)
        self.dice = Dice(seed, classifier.mean.device)

    def __call__(self, images: Tensor) -> Tensor:
        """Answer with the teacher, learn from it, let it follow, restore."""
        logits = self.student(images)
        target = self.ask(images)
        loss = self.distance(logits, target) + self.surprise()
        loss.backward()
        self.learn()
        return target

    @torch.no_grad()
    def ask(self, images: Tensor) -> Tensor:
        """The teacher, over views where the anchor is unsure."""
        confidence = self.anchor(images).softmax(1).max(1)[0].mean(0)
        plain = self.teacher(images)
        if confidence >= self.options.augment_below:
            return plain
        return torch.stack([self.teacher(v) for v in views(images, self.options.views, self.dice, self.options)]).mean(
            0
        )

    def distance(self, logits: Tensor, target: Tensor) -> Tensor:
        """From the student to its teacher."""
        if self.options.loss == "symmetric":
            return 0.5 * (cross(logits, target) + cross(target, logits)).mean(0)
        return cross(logits, target).mean(0)

    def surprise(self) -> Tensor | float:
        """Nothing here."""
        return 0.0

    def learn(self) -> None:
        """Step, average, restore."""
        self.optimizer.step()
        self.optimizer.zero_grad()
        follow(self.teacher, self.student, self.options.teacher_momentum)
        if self.options.restore_rate:
            restore(self.student, self.source, self.options.restore_rate)


class Petal(Cotta):
    """The threshold is found by sorting every squared gradient."""

    options: PetalOptions

    def __init__(
        self, classifier: Classifier, options: PetalOptions, prior: PetalPrior | None = None, seed: int = 0
    ) -> None:
        super().__init__(classifier, options, None, seed)
        self.belief: list[tuple[Tensor, Tensor]] = []
        if prior is not None:
            sizes = [p.numel() for p in self.student.parameters()]
            self.belief = list(zip(prior.mean.split(sizes), prior.variance.split(sizes), strict=True))

    def surprise(self) -> Tensor | float:
        """Minus the log density under the source belief, tensor by tensor."""
        total: Tensor | float = 0.0
        for parameter, (mean, variance) in zip(self.student.parameters(), self.belief, strict=False):
            precision = 1 / (variance.view(parameter.shape).clamp(min=0) + 1e-6)
            total = total + 0.5 * ((parameter - mean.view(parameter.shape)) ** 2 * precision).sum()
        return self.options.prior_weight * total

    def learn(self) -> None:
        """Square, sort, step, average, restore what mattered least."""
        fishers = {name: p.grad.data.clone().pow(2) for name, p in self.student.named_parameters()}
        ordered = torch.cat([f.reshape(-1) for f in fishers.values()]).sort()[0]
        rank = self.options.restored_share * (len(ordered) - 1)
        low = int(rank)
        threshold = torch.lerp(ordered[low], ordered[min(low + 1, len(ordered) - 1)], rank - low)
        self.optimizer.step()
        self.optimizer.zero_grad()
        follow(self.teacher, self.student, self.options.teacher_momentum)
        for name, parameter in self.student.named_parameters():
            mask = (fishers[name] < threshold).to(parameter)
            with torch.no_grad():
                parameter.data = self.source[name] * mask + parameter * (1.0 - mask)


class Rmt:
    """Similarities to prototypes by two tensors of all pairs."""

    def __init__(
        self, classifier: Classifier, options: RmtOptions, prior: RmtPrior | None = None, seed: int = 0
    ) -> None:
        self.options, self.prior = options, prior
        self.student = by_batch(classifier, affine_only=False)
        self.teacher = copy.deepcopy(self.student)
        self.teacher.requires_grad_(False)
        self.dice = Dice(seed, classifier.mean.device)
        head = classifier.network.get_submodule(classifier.head or "")
        self.projector: nn.Module = projector(
            head.in_features, options.projection, like=classifier.mean, dice=self.dice
        )
        self.optimizer = optimizer([*learning(self.student), *self.projector.parameters()], options)

    def __call__(self, images: Tensor) -> Tensor:
        """Answer with both, then agree, contrast and replay."""
        o = self.options
        logits, features = self.student.with_features(images)
        seen_logits, seen_features = self.student.with_features(view(images, self.dice, o))
        target = self.teacher(images)
        loss = 0.5 * o.target_weight * (self.apart(logits, target) + self.apart(seen_logits, target)).mean(0)
        if self.prior is not None:
            loss = loss + o.contrastive_weight * self.contrast(features, seen_features)
        if self.prior is not None and self.prior.images is not None:
            picked = torch.randint(len(self.prior.labels), (len(images),), generator=self.dice.generator)
            replayed = self.prior.images[picked]
            replayed = replayed if replayed.is_floating_point() else replayed / 255
            answer = self.student(replayed)
            loss = loss + o.source_weight * functional.cross_entropy(answer, self.prior.labels[picked].long())
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        follow(self.teacher, self.student, o.teacher_momentum)
        return (logits + target).detach()

    def apart(self, one: Tensor, other: Tensor) -> Tensor:
        """Symmetric cross-entropy."""
        return 0.5 * (cross(one, other) + cross(other, one))

    def contrast(self, features: Tensor, seen: Tensor) -> Tensor:
        """Supervised contrast of the prototype, the image and its view."""
        prototypes = self.prior.prototypes.to(features)
        with torch.no_grad():
            pairs = functional.cosine_similarity(
                prototypes.unsqueeze(1).repeat(1, features.shape[0], 1),
                features.unsqueeze(0).repeat(prototypes.shape[0], 1, 1),
                dim=-1,
            )
            nearest = pairs.topk(1, dim=0)[1].squeeze(0)
        kin = torch.cat([prototypes[nearest].unsqueeze(1), features.unsqueeze(1), seen.unsqueeze(1)], dim=1)
        kin = functional.normalize(self.projector(kin), dim=2)
        n, v = kin.shape[:2]
        same = torch.eye(n, dtype=kin.dtype).repeat(v, v)
        every = torch.cat(torch.unbind(kin, dim=1), dim=0)
        scores = every @ every.T / self.options.temperature
        scores = scores - scores.max(dim=1, keepdim=True)[0].detach()
        others = 1 - torch.eye(n * v, dtype=kin.dtype)
        same = same * others
        log_p = scores - torch.log((torch.exp(scores) * others).sum(1, keepdim=True))
        return -((same * log_p).sum(1) / same.sum(1)).mean()
