//! Numbers of the kernel's netlink interface: linux/netfilter/nfnetlink.h and nf_tables.h, and
//! under their names there, without the prefix.

/// NFNL_SUBSYS_NFTABLES.
pub const SUBSYS: u16 = 10;

/// Message types (NFT_MSG_*).
pub mod msg {
    pub const NEWTABLE: u8 = 0;
    pub const GETTABLE: u8 = 1;
    pub const DELTABLE: u8 = 2;
    pub const GETCHAIN: u8 = 4;
    pub const GETRULE: u8 = 7;
    pub const DELRULE: u8 = 8;
    pub const NEWSET: u8 = 9;
    pub const GETSET: u8 = 10;
    pub const DELSET: u8 = 11;
    pub const NEWSETELEM: u8 = 12;
    pub const GETSETELEM: u8 = 13;
    pub const DELSETELEM: u8 = 14;
    pub const NEWGEN: u8 = 15;
    pub const GETGEN: u8 = 16;
}

/// NFNL_MSG_BATCH_BEGIN and _END: message types of no subsystem.
pub const BATCH_BEGIN: u16 = 0x10;
pub const BATCH_END: u16 = 0x11;
/// NFNL_BATCH_GENID.
pub const BATCH_GENID: u16 = 1;

/// NFTA_TABLE_*.
pub mod table {
    pub const NAME: u16 = 1;
    pub const FLAGS: u16 = 2;
    pub const USERDATA: u16 = 6;
    /// NFT_TABLE_F_DORMANT: its base chains hang nowhere.
    pub const FLAG_DORMANT: u32 = 0x1;
    /// NFT_TABLE_F_OWNER: only the socket that made or adopted the table may change it.
    pub const FLAG_OWNER: u32 = 0x2;
    /// NFT_TABLE_F_PERSIST (Linux 6.9): the table outlives that socket, as an orphan.
    pub const FLAG_PERSIST: u32 = 0x4;
}

/// NFTA_CHAIN_* and NFTA_HOOK_*.
pub mod chain {
    pub const TABLE: u16 = 1;
    pub const NAME: u16 = 3;
    pub const HOOK: u16 = 4;
    pub const POLICY: u16 = 5;
    pub const TYPE: u16 = 7;
    pub const USERDATA: u16 = 12;
    pub const HOOK_NUM: u16 = 1;
    pub const HOOK_PRIORITY: u16 = 2;
}

/// NFTA_RULE_*.
pub mod rule {
    pub const TABLE: u16 = 1;
    pub const CHAIN: u16 = 2;
    pub const EXPRESSIONS: u16 = 4;
}

/// NFTA_LIST_ELEM, NFTA_EXPR_*, NFTA_DATA_*, NFTA_VERDICT_*.
pub mod common {
    pub const LIST_ELEM: u16 = 1;
    pub const EXPR_NAME: u16 = 1;
    pub const EXPR_DATA: u16 = 2;
    pub const DATA_VALUE: u16 = 1;
    pub const DATA_VERDICT: u16 = 2;
    pub const VERDICT_CODE: u16 = 1;
    pub const VERDICT_CHAIN: u16 = 2;
}

/// NFTA_SET_*, NFTA_SET_DESC_*, NFT_SET_*.
pub mod set {
    pub const TABLE: u16 = 1;
    pub const NAME: u16 = 2;
    pub const FLAGS: u16 = 3;
    pub const KEY_TYPE: u16 = 4;
    pub const KEY_LEN: u16 = 5;
    pub const DATA_TYPE: u16 = 6;
    pub const DATA_LEN: u16 = 7;
    pub const DESC: u16 = 9;
    pub const ID: u16 = 10;
    pub const TIMEOUT: u16 = 11;
    pub const USERDATA: u16 = 13;
    pub const EXPR: u16 = 17;
    /// NFTA_SET_COUNT, in answers of newer kernels only.
    pub const COUNT: u16 = 20;
    pub const DESC_SIZE: u16 = 1;
    pub const DESC_CONCAT: u16 = 2;
    pub const FIELD_LEN: u16 = 1;
    pub const FLAG_INTERVAL: u32 = 0x4;
    pub const FLAG_MAP: u32 = 0x8;
    pub const FLAG_TIMEOUT: u32 = 0x10;
    pub const FLAG_EVAL: u32 = 0x20;
    pub const FLAG_CONCAT: u32 = 0x80;
    /// NFT_DATA_VERDICT: data type of verdict maps.
    pub const TYPE_VERDICT: u32 = 0xffff_ff00;
}

/// NFTA_SET_ELEM_LIST_*, NFTA_SET_ELEM_*.
pub mod elem {
    pub const LIST_TABLE: u16 = 1;
    pub const LIST_SET: u16 = 2;
    pub const LIST_ELEMENTS: u16 = 3;
    pub const KEY: u16 = 1;
    pub const DATA: u16 = 2;
    pub const FLAGS: u16 = 3;
    pub const USERDATA: u16 = 6;
    pub const EXPR: u16 = 7;
    pub const KEY_END: u16 = 10;
    pub const FLAG_INTERVAL_END: u32 = 1;
    /// NFTNL_UDATA_SET_ELEM_COMMENT.
    pub const UDATA_COMMENT: u8 = 0;
}

/// NFTA_COUNTER_*, and the name of the expression.
pub mod counter {
    pub const NAME: &str = "counter";
    pub const BYTES: u16 = 1;
    pub const PACKETS: u16 = 2;
}

/// NFTA_GEN_*.
pub mod generation {
    pub const ID: u16 = 1;
    pub const PROC_PID: u16 = 2;
    pub const PROC_NAME: u16 = 3;
}
