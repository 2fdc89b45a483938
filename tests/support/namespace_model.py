"""The namespace as a few dictionaries would have it: what every operation must come to, in the simplest code."""

from __future__ import annotations

from dataclasses import dataclass, field

from quorumfs.errors import Code
from quorumfs.limits import SYMLINK_HOPS_MAX


@dataclass(eq=False)
class Node:
    """A file (body), a link (target) or a directory. `inode` is what the real thing calls it, once known."""

    body: bytes | None = None
    target: bytes | None = None
    children: dict[bytes, Node] = field(default_factory=dict)
    inode: int = 0

    @property
    def is_file(self) -> bool:
        return self.body is not None

    @property
    def is_directory(self) -> bool:
        return self.body is None and self.target is None


@dataclass(frozen=True)
class Spot:
    """A name in a directory; `above`: the directory and all above it, the root first."""

    above: tuple[tuple[bytes, Node], ...]
    name: bytes

    @property
    def directory(self) -> Node:
        return self.above[-1][1]

    @property
    def node(self) -> Node | None:
        return self.directory.children.get(self.name)

    @property
    def path(self) -> bytes:
        return b"/".join((*(name for name, _ in self.above), self.name))

    def is_below(self, node: Node | None) -> bool:
        return any(one is node for _, one in self.above)


@dataclass(frozen=True)
class Trashed:
    """A row of the trash."""

    path: bytes
    node: Node
    deleted_ms: int


class Model:
    """Every method gives the code of the outcome."""

    def __init__(self) -> None:
        self.root = Node(inode=1)
        self.trash: list[Trashed] = []
        self.now_ms = 0

    # Ways

    def spot(self, path: bytes) -> Spot | Code:
        """Where `path` leads, links on the way followed; the last name is only a name."""
        *names, last = path.split(b"/")[1:]
        way = [(b"", self.root)]
        ahead = list(names)
        hops = 0
        while ahead:
            name = ahead.pop(0)
            here = way[-1][1]
            if not here.is_directory:
                return Code.NOT_A_DIRECTORY
            if name == b"..":
                way = way[:-1] or way
                continue
            found = here.children.get(name)
            if found is None:
                return Code.NOT_FOUND
            if found.target is None:
                way.append((name, found))
                continue
            hops += 1
            if hops > SYMLINK_HOPS_MAX:
                return Code.CYCLE
            way = way[:1] if found.target.startswith(b"/") else way
            ahead = [part for part in found.target.split(b"/") if part not in (b"", b".")] + ahead
        return Spot(tuple(way), last) if way[-1][1].is_directory else Code.NOT_A_DIRECTORY

    def spot_in(self, directory: Node, name: bytes) -> Spot | None:
        """A name in a directory wherever that is now; None when it is not in the tree."""

        def search(way: tuple[tuple[bytes, Node], ...]) -> Spot | None:
            if way[-1][1] is directory:
                return Spot(way, name)
            children = way[-1][1].children.items()
            return next(filter(None, (search((*way, child)) for child in children)), None)

        return search(((b"", self.root),))

    # Changes

    def put(self, spot: Spot | Code, body: bytes, if_absent: bool) -> Code:
        if isinstance(spot, Code):
            return spot
        old = spot.node
        if old is not None and if_absent:
            return Code.ALREADY_EXISTS
        if old is not None and old.is_directory:
            return Code.IS_A_DIRECTORY
        if old is not None and old.is_file:
            self._discard(spot, Node(body=old.body))
            old.body = body
        else:
            self._place(spot, Node(body=body))
        return Code.OK

    def mkdir(self, spot: Spot | Code) -> Code:
        if isinstance(spot, Code):
            return spot
        if spot.node is not None:
            return Code.ALREADY_EXISTS
        self._place(spot, Node())
        return Code.OK

    def mkdir_all(self, path: bytes) -> Code:
        names = path.split(b"/")
        for depth in range(2, len(names) + 1):
            # One name deeper than what is to be there: its spot is found when the directory is, links followed.
            if not isinstance(there := self.spot(b"/".join((*names[:depth], b"x"))), Spot):
                spot = self.spot(b"/".join(names[:depth]))
                if not isinstance(spot, Spot):
                    return spot
                if spot.node is not None:
                    return there
                self._place(spot, Node())
        return Code.OK

    def symlink(self, spot: Spot | Code, target: bytes, replace: bool) -> Code:
        if isinstance(spot, Code):
            return spot
        if spot.node is not None and not replace:
            return Code.ALREADY_EXISTS
        if spot.node is not None and spot.node.is_directory:
            return Code.IS_A_DIRECTORY
        self._place(spot, Node(target=target))
        return Code.OK

    def delete(self, spot: Spot | Code, recursive: bool, purge: bool) -> Code:
        if isinstance(spot, Code):
            return spot
        old = spot.node
        if old is None:
            return Code.NOT_FOUND
        if old.children and not recursive:
            return Code.NOT_EMPTY
        del spot.directory.children[spot.name]
        if not purge:
            self._discard(spot, old)
        return Code.OK

    def rename(self, source: Spot | Code, goal: Spot | Code, replace: bool) -> Code:
        if isinstance(source, Code):
            return source
        moved = source.node
        if moved is None:
            return Code.NOT_FOUND
        if isinstance(goal, Code):
            return goal
        if goal.node is moved:
            return Code.OK
        if goal.node is not None and not replace:
            return Code.ALREADY_EXISTS
        if goal.is_below(moved) or source.is_below(goal.node):
            return Code.CYCLE
        del source.directory.children[source.name]
        self._place(goal, moved)
        return Code.OK

    def clone(self, source: Spot | Code, goal: Spot | Code, replace: bool) -> Code:
        if isinstance(source, Code):
            return source
        if source.node is None:
            return Code.NOT_FOUND
        if source.node.body is None:
            return Code.IS_A_DIRECTORY
        if isinstance(goal, Spot) and goal.node is source.node and replace:
            return Code.OK
        return self.put(goal, source.node.body, not replace)

    def undelete(self, original: bytes, to: bytes, replace: bool) -> Code:
        """The newest that was deleted at the path `original`."""
        row = next((row for row in reversed(self.trash) if row.path == original), None)
        if row is None:
            return Code.NOT_FOUND
        spot = self.spot(to)
        if isinstance(spot, Code):
            return spot
        if spot.node is not None and not replace:
            return Code.ALREADY_EXISTS
        self.trash.remove(row)
        self._place(spot, row.node)
        return Code.OK

    def empty_trash(self, older_than_ms: int) -> int:
        """How many rows went: all that are so old."""
        old = [row for row in self.trash if row.deleted_ms <= self.now_ms - older_than_ms]
        self.trash = [row for row in self.trash if row not in old]
        return len(old)

    def present(self) -> list[bytes]:
        """The path of everything that is there."""

        def below(path: bytes, node: Node) -> list[bytes]:
            found = []
            for name in sorted(node.children):
                found += [path + b"/" + name, *below(path + b"/" + name, node.children[name])]
            return found

        return below(b"", self.root)

    def _discard(self, spot: Spot, node: Node) -> None:
        self.trash.append(Trashed(spot.path, node, self.now_ms))

    def _place(self, spot: Spot, node: Node) -> None:
        """Put a node where it shall be; what is there goes to the trash."""
        if spot.node is not None:
            self._discard(spot, spot.node)
        spot.directory.children[spot.name] = node
