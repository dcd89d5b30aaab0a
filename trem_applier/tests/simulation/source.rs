//! The source: tables, a history of transactions, snapshots, and the stream of it all.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use trem_applier::apply::{Snapshot, Window};
use trem_tests::Random;
use trem_wire::codec::{
    decode_frame, encode_begin, encode_column_set, encode_commit, encode_relation, encode_run,
    encode_truncate, encode_update_row, Operation,
};
use trem_wire::message::{Begin, Column, Commit, Message, Relation, RowFormat, Truncate};
use trem_wire::row::RowWriter;
use trem_wire::Lsn;

/// `id`, `u`, `large`.
pub(crate) type Values = [Option<i64>; 3];

/// By the number of a row, which is its key where there is one.
pub(crate) type Rows = BTreeMap<i64, Values>;

pub(crate) const TABLES: u32 = 4;

/// Its second column is unique.
pub(crate) const UNIQUE: u32 = 1;

/// Without a key: identified by all its values.
pub(crate) const KEYLESS: u32 = 2;

const KEYS: u64 = 12;

enum Change {
    Insert(u32, Values),
    /// Whether the large value was left alone and is not in the stream.
    Update(u32, Values, Values, bool),
    Delete(u32, Values),
    Truncate(Vec<u32>),
}

struct Transaction {
    xid: u64,
    changes: Vec<Change>,
    /// Rows that it wrote, by table and number; a truncate writes all of them.
    written: HashSet<(u32, i64)>,
    truncated: BTreeSet<u32>,
    /// All tables after it.
    after: Vec<Rows>,
}

/// A table that was loaded late: what its copy holds, and which transactions that is.
struct Load {
    rows: Rows,
    window: Window,
}

pub(crate) struct History {
    first: Vec<Rows>,
    transactions: Vec<Transaction>,
    loads: HashMap<u32, Load>,
}

pub(crate) fn relation(table: u32) -> Relation {
    let column = |attnum: i16, name: &str, key: bool| Column {
        attnum,
        name: name.to_owned(),
        type_oid: 20,
        type_name: "bigint".to_owned(),
        key,
    };
    Relation {
        oid: table,
        source_schema: "public".to_owned(),
        source_name: format!("t{table}"),
        target_schema: "public".to_owned(),
        target_name: format!("t{table}"),
        format: RowFormat::Binary,
        filtered: false,
        columns: vec![
            column(1, "id", table != KEYLESS),
            column(2, "u", false),
            column(3, "large", false),
        ],
    }
}

fn commit_lsn(at: usize) -> Lsn {
    Lsn(at as u64 * 100 + 150)
}

fn end_lsn(at: usize) -> Lsn {
    Lsn(at as u64 * 100 + 190)
}

impl History {
    pub(crate) fn random(random: &mut Random) -> Self {
        let first: Vec<Rows> = (0..TABLES)
            .map(|table| {
                let ids = (1..=random.below(6) as i64).map(|id| (id, [Some(id), None, Some(-id)]));
                ids.map(|(id, row)| (id + i64::from(table == KEYLESS) * 1_000, row)).collect()
            })
            .collect();
        let mut history =
            History { first: first.clone(), transactions: vec![], loads: HashMap::new() };
        let mut state = first;
        let mut xids = xids(random);
        for _ in 0..10 + random.below(30) {
            let writer = Writer { random, state, changes: vec![], written: HashSet::new() };
            let (transaction, after) = writer.transaction(xids.next().expect("endless"));
            history.transactions.push(transaction);
            state = after;
        }
        for table in 0..TABLES {
            if random.below(2) == 0 {
                let load = history.load(table, random);
                history.loads.insert(table, load);
            }
        }
        history
    }

    /// A copy of the table under a snapshot that is taken somewhere in the history. The last
    /// transactions that are in the WAL by then may not be visible yet, but whoever wrote a row
    /// after another did so when that one was visible.
    fn load(&self, table: u32, random: &mut Random) -> Load {
        let taken = random.below(self.transactions.len() as u64 + 1) as usize;
        let mut hidden: Vec<usize> = Vec::new();
        for at in (taken.saturating_sub(4)..taken).rev() {
            let later = (at + 1..taken).filter(|later| !hidden.contains(later));
            let free = later
                .into_iter()
                .all(|later| !self.transactions[later].follows(&self.transactions[at], table));
            if free && random.below(2) == 0 {
                hidden.push(at);
            }
        }
        let mut rows = self.first[table as usize].clone();
        let seen: Vec<usize> = (0..taken).filter(|at| !hidden.contains(at)).collect();
        for &at in &seen {
            self.transactions[at].replay(table, &mut rows);
        }
        let xids: BTreeSet<u64> = seen.iter().map(|&at| self.transactions[at].xid).collect();
        let xmax = xids.last().map_or(1, |last| last + 1);
        let in_progress = (1..xmax).filter(|xid| !xids.contains(xid)).map(|xid| xid.to_string());
        let text = format!("1:{xmax}:{}", in_progress.collect::<Vec<_>>().join(","));
        let overlap_end = match taken {
            0 => self.start(),
            _ => Lsn(end_lsn(taken - 1).0 + random.below(300)),
        };
        let snapshot = Snapshot::parse(&text).expect("a snapshot's text");
        Load { rows, window: Window { overlap_end, snapshot } }
    }

    pub(crate) fn windows(&self) -> HashMap<u32, Window> {
        self.loads.iter().map(|(table, load)| (*table, load.window.clone())).collect()
    }

    /// What the copies hold before the stream starts.
    pub(crate) fn loaded(&self) -> Vec<Rows> {
        let rows = |(table, first): (usize, &Rows)| match self.loads.get(&(table as u32)) {
            Some(load) => load.rows.clone(),
            None => first.clone(),
        };
        self.first.iter().enumerate().map(rows).collect()
    }

    pub(crate) fn start(&self) -> Lsn {
        Lsn(10)
    }

    pub(crate) fn end(&self) -> Lsn {
        end_lsn(self.transactions.len() - 1)
    }

    /// All tables at a position.
    pub(crate) fn at(&self, position: Lsn) -> &[Rows] {
        let done = (0..self.transactions.len()).take_while(|at| end_lsn(*at) <= position).count();
        match done {
            0 => &self.first,
            _ => &self.transactions[done - 1].after,
        }
    }

    /// What a slot sends from a position on, through the codec.
    pub(crate) fn stream(&self, from: Lsn, random: &mut Random) -> Vec<Message> {
        let mut described = HashSet::new();
        let mut bytes = Vec::new();
        for (at, transaction) in self.transactions.iter().enumerate() {
            if end_lsn(at) <= from || transaction.changes.is_empty() {
                continue;
            }
            let begin =
                Begin { xid: transaction.xid, commit_lsn: commit_lsn(at), commit_timestamp: 0 };
            encode_begin(&mut bytes, &begin);
            transaction.encode(&mut bytes, &mut described, random);
            encode_commit(&mut bytes, &Commit { end_lsn: end_lsn(at) });
        }
        decode_frame(&bytes.into()).expect("what was encoded is decoded")
    }
}

/// Transaction ids in commit order: about ascending.
fn xids(random: &mut Random) -> impl Iterator<Item = u64> {
    let mut xids: Vec<u64> = (1..=100).collect();
    for _ in 0..40 {
        let at = random.below(97) as usize;
        xids.swap(at, at + 1 + random.below(2) as usize);
    }
    xids.into_iter()
}

impl Transaction {
    /// Whether it wrote to the table what `earlier` had written there.
    fn follows(&self, earlier: &Transaction, table: u32) -> bool {
        let truncates = |one: &Transaction, other: &Transaction| {
            one.truncated.contains(&table)
                && (other.truncated.contains(&table)
                    || other.written.iter().any(|(written, _)| *written == table))
        };
        truncates(self, earlier)
            || truncates(earlier, self)
            || self.written.iter().any(|row| row.0 == table && earlier.written.contains(row))
    }

    fn replay(&self, table: u32, rows: &mut Rows) {
        // Rows of the keyless table are replayed by value: one of equal rows is as good as another.
        let find = |rows: &Rows, values: &Values| {
            rows.iter().find(|(_, row)| *row == values).map(|(number, _)| *number)
        };
        for change in &self.changes {
            match change {
                Change::Insert(to, values) if *to == table => {
                    let number = match table {
                        KEYLESS => rows.last_key_value().map_or(1, |(last, _)| last + 1),
                        _ => values[0].expect("a key"),
                    };
                    rows.insert(number, *values);
                }
                Change::Update(to, old, new, _) if *to == table => {
                    let at = find(rows, old).expect("a row that is seen");
                    rows.remove(&at);
                    let number = if table == KEYLESS { at } else { new[0].expect("a key") };
                    rows.insert(number, *new);
                }
                Change::Delete(to, old) if *to == table => {
                    let at = find(rows, old).expect("a row that is seen");
                    rows.remove(&at);
                }
                Change::Truncate(tables) if tables.contains(&table) => rows.clear(),
                _ => {}
            }
        }
    }

    fn encode(&self, out: &mut Vec<u8>, described: &mut HashSet<u32>, random: &mut Random) {
        let mut run: Option<(Operation, u32, u32, Vec<u8>)> = None;
        for change in &self.changes {
            let (operation, table) = match change {
                Change::Insert(table, _) => (Operation::Insert, *table),
                Change::Update(table, ..) => (Operation::Update, *table),
                Change::Delete(table, _) => (Operation::Delete, *table),
                Change::Truncate(tables) => {
                    put_run(out, run.take());
                    tables.iter().for_each(|table| describe(out, described, *table));
                    let truncate = Truncate {
                        relations: tables.clone(),
                        cascade: false,
                        restart_identity: false,
                    };
                    encode_truncate(out, &truncate);
                    continue;
                }
            };
            let continues =
                run.as_ref().is_some_and(|(had, of, ..)| (*had, *of) == (operation, table));
            if !continues || random.below(4) == 0 {
                put_run(out, run.take());
                describe(out, described, table);
            }
            let (_, _, count, rows) = run.get_or_insert_with(|| (operation, table, 0, Vec::new()));
            *count += 1;
            put_change(rows, change);
        }
        put_run(out, run);
    }
}

fn describe(out: &mut Vec<u8>, described: &mut HashSet<u32>, table: u32) {
    if described.insert(table) {
        encode_relation(out, &relation(table));
    }
}

fn put_run(out: &mut Vec<u8>, run: Option<(Operation, u32, u32, Vec<u8>)>) {
    if let Some((operation, table, count, rows)) = run {
        encode_run(out, operation, table, count, &rows);
    }
}

fn put_change(out: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Insert(_, values) => put_row(out, values),
        Change::Update(table, old, new, unchanged) => {
            let sent: Option<&[Option<i64>]> = match *table {
                KEYLESS => Some(old),
                _ => (old[0] != new[0]).then_some(&old[..1]),
            };
            let old = sent.map(|old| move |out: &mut Vec<u8>| put_row(out, old));
            encode_update_row(out, *unchanged, false, old);
            let large = if *unchanged { None } else { new[2] };
            put_row(out, &[new[0], new[1], large]);
            if *unchanged {
                encode_column_set(out, 3, |column| column == 2);
            }
        }
        Change::Delete(table, old) => match *table {
            KEYLESS => put_row(out, old),
            _ => put_row(out, &old[..1]),
        },
        Change::Truncate(_) => {}
    }
}

fn put_row(out: &mut Vec<u8>, values: &[Option<i64>]) {
    let mut row = RowWriter::new(out, values.len() as i16);
    for value in values {
        match value {
            Some(value) => row.field(&value.to_be_bytes()),
            None => row.null(),
        }
    }
}

/// Makes one transaction.
struct Writer<'a> {
    random: &'a mut Random,
    state: Vec<Rows>,
    changes: Vec<Change>,
    written: HashSet<(u32, i64)>,
}

impl Writer<'_> {
    fn transaction(mut self, xid: u64) -> (Transaction, Vec<Rows>) {
        let mut truncated = BTreeSet::new();
        for _ in 0..self.random.below(8) {
            let table = self.random.below(u64::from(TABLES)) as u32;
            match self.random.below(20) {
                0..8 => self.insert(table),
                8..13 => self.update(table),
                13..15 => self.delete(table),
                15..17 => self.move_key(table),
                17 => self.swap(table),
                18 => self.replace(table),
                _ if self.random.below(4) == 0 => {
                    let tables = if table == 3 { vec![0, 3] } else { vec![table] };
                    tables.iter().for_each(|table| self.state[*table as usize].clear());
                    truncated.extend(tables.iter().copied());
                    self.changes.push(Change::Truncate(tables));
                }
                _ => {}
            }
        }
        let (changes, written) = (self.changes, self.written);
        let after = self.state.clone();
        (Transaction { xid, changes, written, truncated, after }, self.state)
    }

    fn rows(&mut self, table: u32) -> &mut Rows {
        &mut self.state[table as usize]
    }

    /// A row that is there.
    fn some(&mut self, table: u32) -> Option<(i64, Values)> {
        let count = self.state[table as usize].len() as u64;
        let at = self.random.below(count.max(1)) as usize;
        self.rows(table).iter().nth(at).map(|(number, row)| (*number, *row))
    }

    /// A key that is free.
    fn free(&mut self, table: u32) -> Option<i64> {
        let id = self.random.below(KEYS) as i64 + 1;
        (!self.state[table as usize].contains_key(&id)).then_some(id)
    }

    /// A value for `u` that no row has, where that matters.
    fn u(&mut self, table: u32) -> Option<i64> {
        let u = Some(self.random.below(6) as i64);
        match table {
            UNIQUE => u.filter(|u| !self.state[1].values().any(|row| row[1] == Some(*u))),
            _ => u,
        }
    }

    fn put(&mut self, table: u32, number: i64, row: Values) {
        self.rows(table).insert(number, row);
        self.written.insert((table, number));
    }

    fn take(&mut self, table: u32, number: i64) {
        self.rows(table).remove(&number);
        self.written.insert((table, number));
    }

    fn insert(&mut self, table: u32) {
        let (u, large) = (self.u(table), Some(self.random.below(3) as i64));
        if table == KEYLESS {
            // Numbers are never used again, and values often.
            let number = 2_000 + self.random.number() as i64 / 2;
            let row = [Some(self.random.below(3) as i64), u, large];
            self.put(table, number, row);
            self.changes.push(Change::Insert(table, row));
        } else if let Some(id) = self.free(table) {
            let row = [Some(id), u, large];
            self.put(table, id, row);
            self.changes.push(Change::Insert(table, row));
        }
    }

    fn change(&mut self, table: u32, number: i64, old: Values, new: Values) {
        let moved = table != KEYLESS && old[0] != new[0];
        if moved {
            self.take(table, number);
        }
        self.put(table, if moved { new[0].expect("a key") } else { number }, new);
        let unchanged = table != KEYLESS && old[2] == new[2] && self.random.below(2) == 0;
        self.changes.push(Change::Update(table, old, new, unchanged));
    }

    fn update(&mut self, table: u32) {
        let Some((number, old)) = self.some(table) else { return };
        let u = self.u(table);
        let large = if self.random.below(2) == 0 { old[2] } else { Some(9) };
        self.change(table, number, old, [old[0], u, large]);
    }

    fn delete(&mut self, table: u32) {
        let Some((number, old)) = self.some(table) else { return };
        self.take(table, number);
        self.changes.push(Change::Delete(table, old));
    }

    fn move_key(&mut self, table: u32) {
        let (Some((number, old)), Some(id)) = (self.some(table), self.free(table)) else { return };
        self.change(table, number, old, [Some(id), old[1], old[2]]);
    }

    /// Two rows swap their keys, by way of a third.
    fn swap(&mut self, table: u32) {
        let rows: Vec<_> = self.rows(table).iter().map(|(n, row)| (*n, *row)).take(2).collect();
        let (&[(a, old_a), (b, old_b)], false) = (&rows[..], table == KEYLESS) else { return };
        let aside = [Some(-1), old_a[1], old_a[2]];
        self.change(table, a, old_a, aside);
        let b_moved = [Some(a), old_b[1], old_b[2]];
        self.change(table, b, old_b, b_moved);
        self.change(table, -1, aside, [Some(b), aside[1], aside[2]]);
    }

    /// A row goes and comes again.
    fn replace(&mut self, table: u32) {
        let Some((number, old)) = self.some(table) else { return };
        self.take(table, number);
        self.changes.push(Change::Delete(table, old));
        let row = [old[0], old[1], Some(7)];
        self.put(table, number, row);
        self.changes.push(Change::Insert(table, row));
    }
}
