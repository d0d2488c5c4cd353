package api

import (
	"time"

	"github.com/google/uuid"
)

// Event is one event of the cluster, such as the creation of a volume.
type Event struct {
	// number of the event, which grows; unique until the server restarts
	ID      uint64            `json:"id"`
	Time    time.Time         `json:"time"`             // when the event happened
	Type    string            `json:"type"`             // volume.create, snapshot.delete, pool.full …
	Volume  string            `json:"volume,omitempty"` // name of the volume concerned; empty: none
	Dataset uuid.UUID         `json:"dataset,omitzero"` // UUID of the dataset concerned; absent: none
	Node    string            `json:"node,omitempty"`   // name of the node concerned; empty: none
	Detail  string            `json:"detail,omitempty"` // explanation for a person; empty: none
	Labels  map[string]string `json:"labels,omitempty"` // labels of the volume concerned
}
