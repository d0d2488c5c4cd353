package api

import "github.com/droverhq/drover/dataset"

// AdoptPool asks for a pool that lies somewhere.
type AdoptPool struct {
	Path string `json:"path" doc:"where the pool lies"`
}

// AcceptPool asks for a pool that is held to serve as it is.
type AcceptPool struct {
	Pool      string `json:"pool" doc:"its name"`
	Confirmed bool   `json:"confirmed" doc:"what it has not any more is lost, on the word of who asks"`
}

// Adopted is a pool and what was found in it.
type Adopted struct {
	Pool    dataset.Pool `json:"pool"`    // the pool that was adopted
	Rebuilt []Rebuilt    `json:"rebuilt"` // what became of each dataset found in the pool
}
