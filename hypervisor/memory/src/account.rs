//! To whom memory is charged: every VM has an account, and Merus itself has one.

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
}

/// All accounts of a [`crate::Frames`].
#[derive(Debug)]
pub(crate) struct Accounts(Vec<Option<Account>>);

impl Accounts {
    pub fn new() -> Self {
        Self(vec![Some(Account { limit: u64::MAX, used: 0, peak: 0 })])
    }

    pub fn get(&self, id: AccountId) -> Option<&Account> {
        self.0.get(usize::from(id.0))?.as_ref()
    }

    fn get_mut(&mut self, id: AccountId) -> Result<&mut Account, MemoryError> {
        self.0.get_mut(usize::from(id.0)).and_then(Option::as_mut).ok_or(MemoryError::NoAccount)
    }

    pub fn open(&mut self, limit: u64) -> Result<AccountId, MemoryError> {
        let account = Some(Account { limit, used: 0, peak: 0 });
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
        if self.get_mut(id)?.used != 0 || id == AccountId::HOST {
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

    /// Whether the account may take `bytes` more.
    pub fn may_take(&self, id: AccountId, bytes: u64) -> Result<(), MemoryError> {
        let account = self.get(id).ok_or(MemoryError::NoAccount)?;
        let left = account.limit.saturating_sub(account.used);
        if bytes <= left { Ok(()) } else { Err(MemoryError::OverLimit { left }) }
    }

    /// Charges what [`Self::may_take`] allowed.
    pub fn charge(&mut self, id: AccountId, bytes: u64) {
        if let Ok(account) = self.get_mut(id) {
            account.used = account.used.saturating_add(bytes);
            account.peak = account.peak.max(account.used);
        }
    }

    /// Takes back a charge.
    pub fn uncharge(&mut self, id: AccountId, bytes: u64) {
        if let Ok(account) = self.get_mut(id) {
            account.used = account.used.saturating_sub(bytes);
        }
    }
}
