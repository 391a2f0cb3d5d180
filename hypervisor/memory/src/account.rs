//! To whom memory is charged: every VM has an account, and Merus itself has one. An account may stand in another one, a group's: then
//! what is charged to it is charged to the group as well, and has to be within both limits.

use crate::MemoryError;
use alloc::vec;
use alloc::vec::Vec;

/// Names an account.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct AccountId(u16);

impl AccountId {
    /// Merus' own account: open from the start, without a limit.
    pub const HOST: Self = Self(0);
    /// Ids from here on never name an account (a carved block's records use them).
    pub(crate) const END: u16 = 0xfff0;

    pub(crate) const fn as_u16(self) -> u16 {
        self.0
    }
}

/// What one account has and may have, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Account {
    /// The most it may have (`memory.max`). May be below `used` after it was lowered: then nothing more is handed out.
    pub limit: u64,
    /// What it has.
    pub used: u64,
    /// The most it ever had.
    pub peak: u64,
    /// The group that it stands in.
    pub group: Option<AccountId>,
}

/// All accounts of a [`crate::Frames`].
#[derive(Debug)]
pub(crate) struct Accounts(Vec<Option<Account>>);

impl Accounts {
    pub fn new() -> Self {
        Self(vec![Some(Account { limit: u64::MAX, used: 0, peak: 0, group: None })])
    }

    pub fn get(&self, id: AccountId) -> Option<&Account> {
        self.0.get(usize::from(id.0))?.as_ref()
    }

    fn get_mut(&mut self, id: AccountId) -> Result<&mut Account, MemoryError> {
        self.0.get_mut(usize::from(id.0)).and_then(Option::as_mut).ok_or(MemoryError::NoAccount)
    }

    /// One level only: a group is in no group.
    pub fn open(&mut self, limit: u64, group: Option<AccountId>) -> Result<AccountId, MemoryError> {
        if let Some(group) = group
            && (group == AccountId::HOST || self.get(group).ok_or(MemoryError::NoAccount)?.group.is_some())
        {
            return Err(MemoryError::NoAccount);
        }
        let account = Some(Account { limit, used: 0, peak: 0, group });
        if let Some((i, slot)) = self.0.iter_mut().enumerate().find(|(_, a)| a.is_none()) {
            *slot = account;
            return u16::try_from(i).map(AccountId).map_err(|_| MemoryError::TooManyAccounts);
        }
        let id = u16::try_from(self.0.len()).ok().filter(|id| *id < AccountId::END);
        let id = id.ok_or(MemoryError::TooManyAccounts)?;
        self.0.push(account);
        Ok(AccountId(id))
    }

    pub fn close(&mut self, id: AccountId) -> Result<(), MemoryError> {
        let has_members = self.0.iter().flatten().any(|a| a.group == Some(id));
        if self.get_mut(id)?.used != 0 || id == AccountId::HOST || has_members {
            return Err(MemoryError::AccountInUse);
        }
        if let Some(slot) = self.0.get_mut(usize::from(id.0)) {
            *slot = None;
        }
        Ok(())
    }

    pub fn set_limit(&mut self, id: AccountId, limit: u64) -> Result<(), MemoryError> {
        self.get_mut(id)?.limit = limit;
        Ok(())
    }

    /// The account and the group that it is in.
    fn chain(&self, id: AccountId) -> impl Iterator<Item = AccountId> + use<> {
        let group = self.get(id).and_then(|a| a.group);
        core::iter::once(id).chain(group)
    }

    /// Whether the account may take `bytes` more.
    pub fn may_take(&self, id: AccountId, bytes: u64) -> Result<(), MemoryError> {
        for of in self.chain(id) {
            let account = self.get(of).ok_or(MemoryError::NoAccount)?;
            let left = account.limit.saturating_sub(account.used);
            if bytes > left {
                return Err(MemoryError::OverLimit { left, of });
            }
        }
        Ok(())
    }

    /// Charges what [`Self::may_take`] allowed.
    pub fn charge(&mut self, id: AccountId, bytes: u64) {
        for id in self.chain(id) {
            if let Ok(account) = self.get_mut(id) {
                account.used = account.used.saturating_add(bytes);
                account.peak = account.peak.max(account.used);
            }
        }
    }

    /// Takes back a charge.
    pub fn uncharge(&mut self, id: AccountId, bytes: u64) {
        for id in self.chain(id) {
            if let Ok(account) = self.get_mut(id) {
                account.used = account.used.saturating_sub(bytes);
            }
        }
    }
}
