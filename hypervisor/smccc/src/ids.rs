//! Function identifiers and status values, with the names of the documents they are from. Nothing else.
//!
//! Arm DEN 0028 (SMCCC) 1.2; Arm DEN 0022 (PSCI) issue D, "PSCI function prototypes" and "Return error codes";
//! Arm DEN 0098 (TRNG firmware interface) 1.0; Arm DEN 0057 (Paravirtualized Time for Arm-based Systems) issue A, "Function identifiers".

/// Bit 30 of an identifier: the 64-bit convention.
pub const SMC64: u32 = 1 << 30;

// Arm architecture calls (SMCCC, "Arm Architecture Calls").
/// SMCCC_VERSION.
pub const SMCCC_VERSION: u32 = 0x8000_0000;
/// SMCCC_ARCH_FEATURES.
pub const ARCH_FEATURES: u32 = 0x8000_0001;
/// SMCCC_ARCH_WORKAROUND_1.
pub const ARCH_WORKAROUND_1: u32 = 0x8000_8000;
/// SMCCC_ARCH_WORKAROUND_2.
pub const ARCH_WORKAROUND_2: u32 = 0x8000_7fff;
/// SMCCC_ARCH_WORKAROUND_3.
pub const ARCH_WORKAROUND_3: u32 = 0x8000_3fff;
/// What SMCCC_VERSION answers: 1.2.
pub const SMCCC_1_2: u64 = 0x1_0002;

// Status values that SMCCC, PSCI and TRNG share in meaning.
/// SUCCESS.
pub const SUCCESS: i64 = 0;
/// NOT_SUPPORTED.
pub const NOT_SUPPORTED: i64 = -1;
/// SMCCC_ARCH_FEATURES on a workaround: the call exists, and this machine does not need it.
pub const WORKAROUND_UNAFFECTED: i64 = 1;

// PSCI. The 64-bit form of a call is its 32-bit identifier | SMC64.
/// PSCI_VERSION.
pub const PSCI_VERSION: u32 = 0x8400_0000;
/// CPU_SUSPEND.
pub const CPU_SUSPEND: u32 = 0x8400_0001;
/// CPU_SUSPEND, 64-bit.
pub const CPU_SUSPEND_64: u32 = CPU_SUSPEND | SMC64;
/// CPU_OFF.
pub const CPU_OFF: u32 = 0x8400_0002;
/// CPU_ON.
pub const CPU_ON: u32 = 0x8400_0003;
/// CPU_ON, 64-bit.
pub const CPU_ON_64: u32 = CPU_ON | SMC64;
/// AFFINITY_INFO.
pub const AFFINITY_INFO: u32 = 0x8400_0004;
/// AFFINITY_INFO, 64-bit.
pub const AFFINITY_INFO_64: u32 = AFFINITY_INFO | SMC64;
/// MIGRATE_INFO_TYPE.
pub const MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
/// SYSTEM_OFF.
pub const SYSTEM_OFF: u32 = 0x8400_0008;
/// SYSTEM_RESET.
pub const SYSTEM_RESET: u32 = 0x8400_0009;
/// PSCI_FEATURES.
pub const PSCI_FEATURES: u32 = 0x8400_000a;
/// SYSTEM_RESET2.
pub const SYSTEM_RESET2: u32 = 0x8400_0012;
/// SYSTEM_RESET2, 64-bit.
pub const SYSTEM_RESET2_64: u32 = SYSTEM_RESET2 | SMC64;
/// What PSCI_VERSION answers: 1.1.
pub const PSCI_1_1: u64 = 0x1_0001;
/// What MIGRATE_INFO_TYPE answers: no Trusted OS, or one that needs no migration.
pub const MIGRATE_NOT_NEEDED: u64 = 2;
/// PSCI INVALID_PARAMETERS; TRNG has the same value and name.
pub const INVALID_PARAMETERS: i64 = -2;
/// PSCI DENIED.
pub const DENIED: i64 = -3;
/// PSCI ALREADY_ON.
pub const ALREADY_ON: i64 = -4;
/// PSCI ON_PENDING.
pub const ON_PENDING: i64 = -5;
/// PSCI INVALID_ADDRESS.
pub const INVALID_ADDRESS: i64 = -9;
/// AFFINITY_INFO: ON.
pub const AFFINITY_ON: i64 = 0;
/// AFFINITY_INFO: OFF.
pub const AFFINITY_OFF: i64 = 1;
/// AFFINITY_INFO: ON_PENDING.
pub const AFFINITY_ON_PENDING: i64 = 2;

// TRNG.
/// TRNG_VERSION.
pub const TRNG_VERSION: u32 = 0x8400_0050;
/// TRNG_FEATURES.
pub const TRNG_FEATURES: u32 = 0x8400_0051;
/// TRNG_GET_UUID.
pub const TRNG_GET_UUID: u32 = 0x8400_0052;
/// TRNG_RND, 32-bit.
pub const TRNG_RND: u32 = 0x8400_0053;
/// TRNG_RND, 64-bit.
pub const TRNG_RND_64: u32 = TRNG_RND | SMC64;
/// The last identifier that the TRNG interface reserves, 32-bit form.
pub const TRNG_LAST: u32 = 0x8400_005f;
/// What TRNG_VERSION answers: 1.0.
pub const TRNG_1_0: u64 = 0x1_0000;
/// TRNG NO_ENTROPY.
pub const NO_ENTROPY: i64 = -3;
/// The UUID of Merus' TRNG back end.
pub const TRNG_UUID: u128 = 0xc97a9d5b_3325_4221_8842_1b6a8773ea38;

// Paravirtualised time, in the range of standard hypervisor services.
/// PV_TIME_FEATURES.
pub const PV_TIME_FEATURES: u32 = 0xc500_0020;
/// PV_TIME_ST.
pub const PV_TIME_ST: u32 = 0xc500_0021;

// The vendor-specific hypervisor range.
/// MERUS_FEATURES.
pub const VENDOR_FEATURES: u32 = 0x8600_0000;
/// MERUS_YIELD.
pub const VENDOR_YIELD: u32 = 0x8600_0001;
/// Which vendor calls exist: MERUS_FEATURES itself, bit 0, and MERUS_YIELD, bit 1.
pub const VENDOR_FEATURE_BITS: u64 = 3;
/// UID query of the range.
pub const VENDOR_UID: u32 = 0x8600_ff01;
/// Revision query of the range.
pub const VENDOR_REVISION: u32 = 0x8600_ff03;
/// The range's UID: how a guest knows that it runs on Merus.
pub const MERUS_UID: u128 = 0xe9e84a8b_a15b_4f02_b37f_f2b05bda0d8f;
/// Major revision of the vendor calls.
pub const VENDOR_MAJOR: u64 = 1;
/// Minor revision of the vendor calls.
pub const VENDOR_MINOR: u64 = 1;
