//! Tables in memory: for simulations and tests. Nothing survives the process.

use std::collections::BTreeMap;
use std::ops::Bound;

use parking_lot::RwLock;

use super::{Batch, Page, Row, Scan, Table, Tables, TablesResult};

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// See the module's docs.
#[derive(Debug, Default)]
pub struct MemTables {
    tables: RwLock<BTreeMap<Table, Rows>>,
}

impl MemTables {
    pub fn new() -> Self {
        Self::default()
    }
}

impl Tables for MemTables {
    fn get(&self, table: Table, key: &[u8]) -> TablesResult<Option<Vec<u8>>> {
        Ok(self.tables.read().get(&table).and_then(|rows| rows.get(key).cloned()))
    }

    fn apply(&self, batch: &Batch) -> TablesResult<()> {
        batch.check()?;
        let mut tables = self.tables.write();
        for ((table, key), value) in &batch.changes {
            let rows = tables.entry(*table).or_default();
            match value {
                Some(value) => rows.insert(key.clone(), value.clone()),
                None => rows.remove(key),
            };
        }
        Ok(())
    }

    fn scan(&self, scan: &Scan) -> TablesResult<Vec<Row>> {
        let tables = self.tables.read();
        let Some(rows) = tables.get(&scan.table).filter(|_| !scan.is_empty()) else { return Ok(Vec::new()) };
        let bounds: (Bound<&[u8]>, Bound<&[u8]>) =
            (scan.from.as_ref().map(Vec::as_slice), scan.to.as_ref().map(Vec::as_slice));
        let range = rows.range::<[u8], _>(bounds);
        let mut page = Page::of(scan);
        let mut take = |(key, value): (&Vec<u8>, &Vec<u8>)| page.take((key.clone(), value.clone()));
        if scan.backward {
            range.rev().all(&mut take);
        } else {
            let mut range = range;
            range.all(&mut take);
        }
        Ok(page.rows)
    }

    fn clear(&self, table: Table) -> TablesResult<()> {
        self.tables.write().remove(&table);
        Ok(())
    }

    fn len(&self, table: Table) -> TablesResult<u64> {
        Ok(self.tables.read().get(&table).map_or(0, |rows| rows.len() as u64))
    }

    fn checkpoint(&self) -> TablesResult<()> {
        Ok(())
    }

    fn bytes_on_disk(&self) -> TablesResult<u64> {
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn conforms() {
        crate::tables::conformance::run(|| (Arc::new(MemTables::new()) as Arc<dyn Tables>, Box::new(())));
    }
}
