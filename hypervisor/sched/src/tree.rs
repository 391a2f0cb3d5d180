//! Trees over the vCPUs of one queue, ordered by a key, each subtree knowing its earliest deadline and where its members
//! may go.
//!
//! AVL trees whose nodes lie in the vCPUs' records, so inserting allocates nothing and a node is found without a search. A
//! vCPU is in one tree at most. Recursion is as deep as the tree is high, at most 1.44 log2 n (15 for 1,024 vCPUs).
use crate::slab::{NIL, Slab};

/// A virtual time; see `entity::Pace` for its unit.
pub(crate) type VTime = u128;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Node {
    pub key: VTime,
    pub deadline: VTime,
    /// The pCPUs that may take it away, and those that may take any of its subtree.
    pub reach: u128,
    union: u128,
    left: u32,
    right: u32,
    /// The node of the subtree with the earliest deadline.
    best: u32,
    /// 1 for a leaf.
    height: u8,
}

impl Node {
    pub const EMPTY: Self = Self::new(0);

    /// In no tree.
    pub const fn new(deadline: VTime) -> Self {
        Self { key: 0, deadline, reach: 0, union: 0, left: NIL, right: NIL, best: NIL, height: 0 }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Tree {
    root: u32,
    len: usize,
}

#[inline]
fn node(slab: &Slab, at: u32) -> &Node {
    #[cfg(test)]
    slab.visits.set(slab.visits.get() + 1);
    slab.get(at).map_or(&Node::EMPTY, |e| &e.node)
}

#[inline]
fn with(slab: &mut Slab, at: u32, change: impl FnOnce(&mut Node)) {
    if let Some(entity) = slab.get_mut(at) {
        change(&mut entity.node);
    }
}

/// Whichever of two nodes has the earlier deadline; `NIL` loses.
fn better(slab: &Slab, a: u32, b: u32) -> u32 {
    if b == NIL || a == b {
        return a;
    }
    if a == NIL || (node(slab, b).deadline, b) < (node(slab, a).deadline, a) { b } else { a }
}

/// Order in the tree; the number breaks ties.
fn before(slab: &Slab, a: u32, b: u32) -> bool {
    (node(slab, a).key, a) < (node(slab, b).key, b)
}

impl Tree {
    pub const fn new() -> Self {
        Self { root: NIL, len: 0 }
    }

    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Inserts `id`, which is in no tree, under `key`, with the deadline it has.
    pub fn insert(&mut self, slab: &mut Slab, id: u32, key: VTime, reach: u128) {
        with(slab, id, |n| {
            (n.key, n.reach, n.union) = (key, reach, reach);
            (n.left, n.right, n.best, n.height) = (NIL, NIL, id, 1);
        });
        self.root = if self.root == NIL { id } else { insert_below(slab, self.root, id) };
        self.len = self.len.saturating_add(1);
    }

    /// Removes `id`, which is in this tree.
    pub fn remove(&mut self, slab: &mut Slab, id: u32) {
        self.root = if self.len == 1 { NIL } else { remove_below(slab, self.root, id) };
        self.len = self.len.saturating_sub(1);
    }

    /// The earliest deadline among those with a key not after `now`.
    pub fn best_until(&self, slab: &Slab, now: VTime) -> Option<u32> {
        let (mut at, mut best) = (self.root, NIL);
        while at != NIL {
            let Node { key, left, right, .. } = *node(slab, at);
            if key > now {
                at = left;
            } else {
                best = better(slab, better(slab, best, at), node(slab, left).best);
                at = right;
            }
        }
        (best != NIL).then_some(best)
    }

    /// The earliest key of all.
    pub fn first(&self, slab: &Slab) -> Option<u32> {
        let (mut at, mut first) = (self.root, None);
        while at != NIL {
            first = Some(at);
            at = node(slab, at).left;
        }
        first
    }

    /// The pCPUs that may take some member.
    pub fn reach(&self, slab: &Slab) -> u128 {
        node(slab, self.root).union
    }

    /// The earliest key of those that the pCPUs of `mask` may take.
    pub fn first_within(&self, slab: &Slab, mask: u128) -> Option<u32> {
        let mut at = self.root;
        if node(slab, at).union & mask == 0 {
            return None;
        }
        loop {
            let Node { left, right, reach, .. } = *node(slab, at);
            if node(slab, left).union & mask != 0 {
                at = left;
            } else if reach & mask != 0 {
                return Some(at);
            } else if node(slab, right).union & mask != 0 {
                at = right;
            } else {
                return None;
            }
        }
    }
}

/// Brings what `id` knows of its subtree up to date with its children.
fn update(slab: &mut Slab, id: u32) {
    let Node { left, right, reach, .. } = *node(slab, id);
    let (l, r) = (node(slab, left), node(slab, right));
    let height = l.height.max(r.height).saturating_add(1);
    let union = reach | l.union | r.union;
    let best = better(slab, better(slab, id, l.best), r.best);
    with(slab, id, |n| (n.height, n.union, n.best) = (height, union, best));
}

fn insert_below(slab: &mut Slab, root: u32, id: u32) -> u32 {
    if root == NIL {
        return id;
    }
    if before(slab, id, root) {
        let left = insert_below(slab, node(slab, root).left, id);
        with(slab, root, |n| n.left = left);
    } else {
        let right = insert_below(slab, node(slab, root).right, id);
        with(slab, root, |n| n.right = right);
    }
    balance(slab, root)
}

fn remove_below(slab: &mut Slab, root: u32, id: u32) -> u32 {
    if root == NIL {
        return NIL;
    }
    let Node { left, right, .. } = *node(slab, root);
    if root == id {
        if right == NIL {
            return left;
        }
        let (heir, rest) = take_first(slab, right);
        with(slab, heir, |n| (n.left, n.right) = (left, rest));
        return balance(slab, heir);
    }
    if before(slab, id, root) {
        let left = remove_below(slab, left, id);
        with(slab, root, |n| n.left = left);
    } else {
        let right = remove_below(slab, right, id);
        with(slab, root, |n| n.right = right);
    }
    balance(slab, root)
}

/// The first node below `root` and the subtree without it.
fn take_first(slab: &mut Slab, root: u32) -> (u32, u32) {
    let Node { left, right, .. } = *node(slab, root);
    if left == NIL {
        return (root, right);
    }
    let (first, rest) = take_first(slab, left);
    with(slab, root, |n| n.left = rest);
    (first, balance(slab, root))
}

/// Restores the balance of `root`, whose subtrees are balanced and differ by two at most in height; returns what stands in
/// its place.
fn balance(slab: &mut Slab, root: u32) -> u32 {
    let Node { left, right, .. } = *node(slab, root);
    let (lh, rh) = (node(slab, left).height, node(slab, right).height);
    if lh > rh.saturating_add(1) {
        let inner = *node(slab, left);
        if node(slab, inner.right).height > node(slab, inner.left).height {
            let left = rotate_left(slab, left);
            with(slab, root, |n| n.left = left);
        }
        return rotate_right(slab, root);
    }
    if rh > lh.saturating_add(1) {
        let inner = *node(slab, right);
        if node(slab, inner.left).height > node(slab, inner.right).height {
            let right = rotate_right(slab, right);
            with(slab, root, |n| n.right = right);
        }
        return rotate_left(slab, root);
    }
    update(slab, root);
    root
}

fn rotate_right(slab: &mut Slab, root: u32) -> u32 {
    let top = node(slab, root).left;
    let moved = node(slab, top).right;
    with(slab, root, |n| n.left = moved);
    with(slab, top, |n| n.right = root);
    update(slab, root);
    update(slab, top);
    top
}

fn rotate_left(slab: &mut Slab, root: u32) -> u32 {
    let top = node(slab, root).right;
    let moved = node(slab, top).left;
    with(slab, root, |n| n.right = moved);
    with(slab, top, |n| n.left = root);
    update(slab, root);
    update(slab, top);
    top
}

#[cfg(test)]
impl Tree {
    /// Checks order, balance and what every subtree knows of itself; returns the members in order.
    pub fn check(&self, slab: &Slab) -> std::vec::Vec<u32> {
        fn walk(slab: &Slab, at: u32, members: &mut std::vec::Vec<u32>) -> u8 {
            if at == NIL {
                return 0;
            }
            let from = members.len();
            let own = *node(slab, at);
            let left = walk(slab, own.left, members);
            members.push(at);
            let right = walk(slab, own.right, members);
            assert!(left.abs_diff(right) <= 1, "unbalanced");
            assert_eq!(own.height, 1 + left.max(right));
            let best = members[from..].iter().copied().min_by_key(|m| (node(slab, *m).deadline, *m));
            assert_eq!(Some(own.best), best);
            assert_eq!(own.union, members[from..].iter().fold(0, |u, m| u | node(slab, *m).reach));
            own.height
        }
        let mut members = std::vec::Vec::new();
        walk(slab, self.root, &mut members);
        assert!(members.windows(2).all(|w| before(slab, w[0], w[1])), "out of order");
        assert_eq!(members.len(), self.len);
        members
    }
}
