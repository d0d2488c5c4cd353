package api

import (
	"time"

	"github.com/google/uuid"
)

// Finding is one line of the report of drover doctor.
type Finding struct {
	Level   string `json:"level" enum:"ok,info,warning,error"` // severity of the finding
	Subject string `json:"subject"`                            // what it is about: "pool default", "dataset f23c…"
	Text    string `json:"text"`                               // the finding, for a person
	Fix     string `json:"fix,omitempty"`                      // command that fixes it; empty: none
}

// Collected is an object of a pool that was destroyed because the store does not know it.
type Collected struct {
	Dataset   uuid.UUID `json:"dataset"`          // UUID of the object
	Pool      string    `json:"pool"`             // name of the pool that had it
	Path      string    `json:"path,omitempty"`   // where it was
	Volume    string    `json:"volume,omitempty"` // name in the record beside the data; empty: there was none
	Snapshots int       `json:"snapshots"`        // number of its snapshots
}

// Version describes the server.
type Version struct {
	Version string    `json:"version"`        // version of the program
	API     string    `json:"api"`            // version of the API
	Node    string    `json:"node,omitempty"` // name of the node that answers; empty: not a node
	Store   string    `json:"store"`          // kind of the store
	Started time.Time `json:"started"`        // when the program started
}
