// Package records holds what the agent knows and keeps across restarts: DB is the agent's database on disk, and Cache
// has the records of datasets, copies and spellings in memory. All components of the agent use them through host.Host.
// The package calls neither control nor a backend.
//
// DB only reads and writes values: each key belongs to the component that writes it. See DB for the list of keys.
package records
