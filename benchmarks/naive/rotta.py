"""RoTTA, written naively: a list of images for each class, looked through image by image."""

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adapters import Classifier
from adapters.parts.dice import Dice
from adapters.rotta import RottaOptions

from .pieces import cross, follow, learning, optimizer, softmax_entropy, view


class RobustNorm(nn.Module):
    """Running statistics with the batch mixed in, copied at every call."""

    def __init__(self, norm: nn.BatchNorm2d, share: float) -> None:
        super().__init__()
        self.mean, self.var = norm.running_mean.clone(), norm.running_var.clone()
        self.weight, self.bias = copy.deepcopy(norm.weight), copy.deepcopy(norm.bias)
        self.eps, self.share = norm.eps, share

    def forward(self, x: Tensor) -> Tensor:
        """In training the mixture, else what was kept."""
        if self.training:
            var, mean = torch.var_mean(x, dim=[0, 2, 3], unbiased=False)
            mean = (1 - self.share) * self.mean + self.share * mean
            var = (1 - self.share) * self.var + self.share * var
            self.mean, self.var = copy.deepcopy(mean.detach()), copy.deepcopy(var.detach())
        else:
            mean, var = self.mean, self.var
        x = (x - mean.view(1, -1, 1, 1)) / torch.sqrt(var.view(1, -1, 1, 1) + self.eps)
        return x * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


@dataclass
class Item:
    """An image in memory."""

    image: Tensor
    entropy: float
    age: int = 0


class Rotta:
    """Student and teacher are copies; the memory is lists."""

    def __init__(self, classifier: Classifier, options: RottaOptions, _prior: None = None, seed: int = 0) -> None:
        self.options = options
        self.classes = classifier.num_classes
        self.student = robust(copy.deepcopy(classifier), options.statistics_share)
        self.teacher = copy.deepcopy(self.student)
        self.teacher.requires_grad_(False)
        self.optimizer = optimizer(learning(self.student), options)
        self.memory: list[list[Item]] = [[] for _ in range(self.classes)]
        self.dice = Dice(seed, classifier.mean.device)
        self.seen = 0

    def __call__(self, images: Tensor) -> Tensor:
        """Answer, remember one image after the other, learn when it is time."""
        with torch.no_grad():
            self.teacher.eval()
            logits = self.teacher(images)
            labels, entropies = logits.argmax(1), softmax_entropy(logits)
        for i, image in enumerate(images):
            self.remember(Item(image, entropies[i].item()), int(labels[i].item()))
            self.seen += 1
            if self.seen % self.options.update_every == 0:
                self.learn()
        return logits

    def remember(self, new: Item, label: int) -> None:
        """Category-balanced sampling with timeliness and uncertainty."""
        if self.room_for(new, label):
            self.memory[label].append(new)
        for items in self.memory:
            for item in items:
                item.age += 1

    def room_for(self, new: Item, label: int) -> bool:
        """Whether there is room, or could be made."""
        counts = [len(items) for items in self.memory]
        if counts[label] < self.options.capacity / self.classes:
            if sum(counts) < self.options.capacity:
                return True
            return self.replaced([c for c in range(self.classes) if counts[c] == max(counts)], new)
        return self.replaced([label], new)

    def replaced(self, classes: list[int], new: Item) -> bool:
        """Whether the worst of these classes had to go."""
        worst, place = None, (0, 0)
        for c in classes:
            for i, item in enumerate(self.memory[c]):
                if worst is None or self.score(item) >= worst:
                    worst, place = self.score(item), (c, i)
        if worst is not None and worst <= self.score(new):
            return False
        if worst is not None:
            self.memory[place[0]].pop(place[1])
        return True

    def score(self, item: Item) -> float:
        """The higher, the sooner it goes."""
        o = self.options
        timely = 1 / (1 + math.exp(-item.age / o.capacity))
        return o.age_weight * timely + o.entropy_weight * item.entropy / math.log(self.classes)

    def learn(self) -> None:
        """From all that is held, weighed by age."""
        items = sorted((item for items in self.memory for item in items), key=lambda item: -item.age)
        held = torch.stack([item.image for item in items])
        ages = torch.tensor([item.age for item in items], dtype=held.dtype) / self.options.capacity
        self.student.train()
        self.teacher.train()
        with torch.no_grad():
            target = self.teacher(held)
        answer = self.student(view(held, self.dice, self.options))
        weights = torch.exp(-ages) / (1 + torch.exp(-ages))
        (weights * cross(answer, target)).mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        follow(self.teacher, self.student, self.options.teacher_momentum)


def robust(network: nn.Module, share: float) -> nn.Module:
    """Every norm replaced; only they learn."""
    network.requires_grad_(False)
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            norm = RobustNorm(module, share)
            norm.requires_grad_(True)
            parent, _, leaf = name.rpartition(".")
            setattr(network.get_submodule(parent), leaf, norm)
    return network
