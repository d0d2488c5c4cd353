package api

import "time"

// Finding is one line of the report of drover doctor.
type Finding struct {
	Level   string `json:"level" enum:"ok,info,warning,error"` // severity of the finding
	Subject string `json:"subject"`                            // what it is about: "pool default", "dataset f23c…"
	Text    string `json:"text"`                               // the finding, for a person
	Fix     string `json:"fix,omitempty"`                      // command that fixes it; empty: none
}

// Version describes the server.
type Version struct {
	Version string    `json:"version"`        // version of the program
	API     string    `json:"api"`            // version of the API
	Node    string    `json:"node,omitempty"` // name of the node that answers; empty: not a node
	Store   string    `json:"store"`          // kind of the store
	Started time.Time `json:"started"`        // when the program started
}
