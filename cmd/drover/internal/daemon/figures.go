package daemon

import (
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/control/store/consul"
)

// Figure is one metric of a store, with the function that reads it.
type Figure struct {
	family *Family
	read   func() float64
}

// OfBolt returns the metrics of a store in a file.
func OfBolt(st *bolt.Store) []Figure {
	return []Figure{
		{storeCommits, func() float64 { return float64(st.Stats().Commits) }},
		{storeTxns, func() float64 { return float64(st.Stats().Txns) }},
		{storeConflicts, func() float64 { return float64(st.Stats().Conflicts) }},
		{storeEntries, func() float64 { return float64(st.Stats().Entries) }},
		{storeReserve, func() float64 { return float64(st.Stats().ReserveBytes) }},
	}
}

// OfConsul returns the metrics of a store in Consul.
func OfConsul(st *consul.Store) []Figure {
	return []Figure{
		{storeTxns, func() float64 { return float64(st.Stats().Txns) }},
		{storeConflicts, func() float64 { return float64(st.Stats().Conflicts) }},
		{storeUnknown, func() float64 { return float64(st.Stats().Unknown) }},
		{storeRequests, func() float64 { return float64(st.Stats().Requests) }},
		{storeWakes, func() float64 { return float64(st.Stats().Wakes) }},
	}
}
