package api

import (
	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// Stay reports the use of a shared dataset by a node; see dataset.Guest.
type Stay struct {
	Incarnation uuid.UUID `json:"incarnation"` // incarnation of the agent that reports the stay
	Dataset     uuid.UUID `json:"dataset"`     // UUID of the dataset that the guest uses
	ID          uuid.UUID `json:"id"`          // of the stay, chosen by the agent: another one each time
	// it has the dataset mounted: that is put on record, whatever goes on
	Held bool `json:"held,omitempty"`
	Over bool `json:"over,omitempty"` // it has it mounted no more, or needs it alone no more
}

// Visit is a guest of a dataset as people see it.
type Visit struct {
	dataset.Guest
	NodeName string `json:"node_name"` // name of the guest node
	Alone    bool   `json:"alone,omitempty" doc:"it is the home, which lets nobody else in meanwhile"`
	Away     bool   `json:"away,omitempty" doc:"nothing is heard of the node"`
	Fenced   bool   `json:"fenced,omitempty" doc:"a person vouches that the node writes no more: it counts for nothing"`
	Mounts   int    `json:"mounts" doc:"how many uses the node has of it, as far as it was heard"`
	Problem  string `json:"problem,omitempty" doc:"what is wrong with it there, as far as it was heard"`
}
