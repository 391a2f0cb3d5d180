//! The ready vCPUs, ordered by virtual start time, each subtree knowing its earliest deadline.
//!
//! An AVL tree over fixed arrays: a node's index is the vCPU's number, so inserting allocates nothing and a node is found
//! without a search. Recursion is as deep as the tree is high, at most 1.44 log2 n (15 for 1,024 vCPUs).
use alloc::vec::Vec;

/// A virtual time; see `entity::scaled` for its unit.
pub(crate) type VTime = u128;

/// No node.
const NIL: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Node {
    start: VTime,
    deadline: VTime,
    left: u32,
    right: u32,
    /// The node of the subtree with the earliest deadline.
    best: u32,
    /// The same among those that may leave for another queue.
    best_movable: u32,
    /// 1 for a leaf.
    height: u8,
    movable: bool,
}

const EMPTY: Node =
    Node { start: 0, deadline: 0, left: NIL, right: NIL, best: NIL, best_movable: NIL, height: 0, movable: false };

#[derive(Debug)]
pub(crate) struct Tree {
    nodes: Vec<Node>,
    root: u32,
    len: usize,
}

impl Tree {
    pub fn new(capacity: usize) -> Self {
        Self { nodes: alloc::vec![EMPTY; capacity], root: NIL, len: 0 }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Start and deadline of `id`, whether it is in the tree or not.
    pub fn times(&self, id: u32) -> (VTime, VTime) {
        let node = self.node(id);
        (node.start, node.deadline)
    }

    /// Sets start and deadline of `id`, which must not be in the tree.
    pub fn set_times(&mut self, id: u32, start: VTime, deadline: VTime) {
        self.with(id, |n| (n.start, n.deadline) = (start, deadline));
    }

    /// Inserts `id`, which is not in the tree, with the times it has.
    pub fn insert(&mut self, id: u32, movable: bool) {
        self.with(id, |n| {
            (n.left, n.right, n.height, n.movable) = (NIL, NIL, 1, movable);
        });
        self.update(id);
        self.root = self.insert_below(self.root, id);
        self.len = self.len.saturating_add(1);
    }

    /// Removes `id`, which is in the tree.
    pub fn remove(&mut self, id: u32) {
        self.root = self.remove_below(self.root, id);
        self.len = self.len.saturating_sub(1);
    }

    /// The earliest deadline among those with a start not after `now`.
    pub fn best_eligible(&self, now: VTime) -> Option<u32> {
        let (mut at, mut best) = (self.root, NIL);
        while at != NIL {
            let node = self.node(at);
            if node.start > now {
                at = node.left;
            } else {
                best = self.better(self.better(best, at), self.node(node.left).best);
                at = node.right;
            }
        }
        (best != NIL).then_some(best)
    }

    /// The earliest deadline of all that may leave.
    pub fn best_movable(&self) -> Option<u32> {
        let best = self.node(self.root).best_movable;
        (best != NIL).then_some(best)
    }

    /// The earliest start of all.
    pub fn first(&self) -> Option<u32> {
        let (mut at, mut first) = (self.root, None);
        while at != NIL {
            first = Some(at);
            at = self.node(at).left;
        }
        first
    }

    #[inline]
    fn node(&self, id: u32) -> &Node {
        self.nodes.get(id as usize).unwrap_or(&EMPTY)
    }

    #[inline]
    fn with(&mut self, id: u32, change: impl FnOnce(&mut Node)) {
        if let Some(node) = self.nodes.get_mut(id as usize) {
            change(node);
        }
    }

    /// Whichever of two nodes has the earlier deadline; `NIL` loses.
    fn better(&self, a: u32, b: u32) -> u32 {
        if a == NIL || (b != NIL && (self.node(b).deadline, b) < (self.node(a).deadline, a)) { b } else { a }
    }

    /// Order in the tree; the number breaks ties.
    fn before(&self, a: u32, b: u32) -> bool {
        (self.node(a).start, a) < (self.node(b).start, b)
    }

    /// Brings height and bests of `id` up to date with its children.
    fn update(&mut self, id: u32) {
        let node = *self.node(id);
        let (left, right) = (self.node(node.left), self.node(node.right));
        let height = left.height.max(right.height).saturating_add(1);
        let best = self.better(self.better(id, left.best), right.best);
        let own = if node.movable { id } else { NIL };
        let best_movable = self.better(self.better(own, left.best_movable), right.best_movable);
        self.with(id, |n| (n.height, n.best, n.best_movable) = (height, best, best_movable));
    }

    fn insert_below(&mut self, root: u32, id: u32) -> u32 {
        if root == NIL {
            return id;
        }
        if self.before(id, root) {
            let left = self.insert_below(self.node(root).left, id);
            self.with(root, |n| n.left = left);
        } else {
            let right = self.insert_below(self.node(root).right, id);
            self.with(root, |n| n.right = right);
        }
        self.balance(root)
    }

    fn remove_below(&mut self, root: u32, id: u32) -> u32 {
        if root == NIL {
            return NIL;
        }
        let Node { left, right, .. } = *self.node(root);
        if root == id {
            if right == NIL {
                return left;
            }
            let (heir, rest) = self.take_first(right);
            self.with(heir, |n| (n.left, n.right) = (left, rest));
            return self.balance(heir);
        }
        if self.before(id, root) {
            let left = self.remove_below(left, id);
            self.with(root, |n| n.left = left);
        } else {
            let right = self.remove_below(right, id);
            self.with(root, |n| n.right = right);
        }
        self.balance(root)
    }

    /// The first node below `root` and the subtree without it.
    fn take_first(&mut self, root: u32) -> (u32, u32) {
        let Node { left, right, .. } = *self.node(root);
        if left == NIL {
            return (root, right);
        }
        let (first, rest) = self.take_first(left);
        self.with(root, |n| n.left = rest);
        (first, self.balance(root))
    }

    /// Restores the balance of `root`, whose subtrees are balanced and differ by two at most in height; returns what stands
    /// in its place.
    fn balance(&mut self, root: u32) -> u32 {
        let Node { left, right, .. } = *self.node(root);
        let (lh, rh) = (self.node(left).height, self.node(right).height);
        if lh > rh.saturating_add(1) {
            let inner = *self.node(left);
            if self.node(inner.right).height > self.node(inner.left).height {
                let left = self.rotate_left(left);
                self.with(root, |n| n.left = left);
            }
            return self.rotate_right(root);
        }
        if rh > lh.saturating_add(1) {
            let inner = *self.node(right);
            if self.node(inner.left).height > self.node(inner.right).height {
                let right = self.rotate_right(right);
                self.with(root, |n| n.right = right);
            }
            return self.rotate_left(root);
        }
        self.update(root);
        root
    }

    fn rotate_right(&mut self, root: u32) -> u32 {
        let top = self.node(root).left;
        let moved = self.node(top).right;
        self.with(root, |n| n.left = moved);
        self.with(top, |n| n.right = root);
        self.update(root);
        self.update(top);
        top
    }

    fn rotate_left(&mut self, root: u32) -> u32 {
        let top = self.node(root).right;
        let moved = self.node(top).left;
        self.with(root, |n| n.right = moved);
        self.with(top, |n| n.left = root);
        self.update(root);
        self.update(top);
        top
    }

    /// Checks order, balance and the bests of every subtree; returns how many nodes there are.
    #[cfg(test)]
    pub fn check(&self) -> usize {
        fn walk(tree: &Tree, at: u32, members: &mut Vec<u32>) -> u8 {
            if at == NIL {
                return 0;
            }
            let from = members.len();
            let node = *tree.node(at);
            let left = walk(tree, node.left, members);
            members.push(at);
            let right = walk(tree, node.right, members);
            assert!(left.abs_diff(right) <= 1, "unbalanced");
            assert_eq!(node.height, 1 + left.max(right));
            let best = |movable: bool| {
                let of = members[from..].iter().filter(|m| !movable || tree.node(**m).movable);
                of.copied().min_by_key(|m| (tree.node(*m).deadline, *m)).unwrap_or(NIL)
            };
            assert_eq!((node.best, node.best_movable), (best(false), best(true)));
            node.height
        }
        let mut members = Vec::new();
        walk(self, self.root, &mut members);
        assert!(members.windows(2).all(|w| self.before(w[0], w[1])), "out of order");
        assert_eq!(members.len(), self.len);
        self.len
    }
}
