// Package records holds what the agent knows and keeps across restarts: DB is its own database on disk, and
// Cache has the records of datasets, copies and spellings in memory. Neither calls control or a backend.
package records
