// Package records has the two stores of an agent's records: DB is the agent's database on disk, and Cache has the
// records of datasets, copies and spellings in memory. The components of the agent use them through host.Host. This
// package calls neither control nor a backend.
//
// DB only reads and writes values. Each key belongs to one component, which writes it; the comment of DB lists the
// keys. There are three exceptions. One is volumes/, the records of the datasets whose home is this node: Cache writes
// those that have changed, and packages mounting and move also write or remove single ones. The others are pools/,
// which package pooladmin writes too, and recovered, which package mounting removes. The mutex of Cache protects the
// records in memory, and each write of DB is one transaction. A new key of the database belongs in its component, with
// a line in the comment of DB. How entries are encoded is in entry.go. Which volumes docker volume ls lists is in
// spellings.go, and what it shows of each is in package operation.
package records
