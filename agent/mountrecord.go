package agent

import (
	"time"

	"github.com/droverhq/drover/plugin"
)

// mountRecord is who uses a mounted dataset. It is void on another boot.
type mountRecord struct {
	Boot  string             `json:"boot"`
	Epoch uint64             `json:"epoch"`
	IDs   map[string]idCount `json:"ids"`
}

type idCount struct {
	Count      int       `json:"count"`
	Generation uint64    `json:"generation"`
	Since      time.Time `json:"since"`
	As         string    `json:"as,omitempty"` // the spelling that the engine mounted it by
	// Tool is which engine mounted it. Empty: not known.
	Tool plugin.Tool `json:"tool,omitempty"`
	// Older says that an engine mounted with this ID again after it had ended once: Count may lack
	// a use by a container that outlived the engine (live-restore).
	Older bool `json:"older,omitempty"`
	// Ended says that the engine has unmounted as often as it mounted, as far as is known, but a
	// process still had the dataset mounted. The use ends once none has.
	Ended bool `json:"ended,omitempty"`
	// inherited is true if some of the uses were read from disk when the agent started. They may have
	// ended while no agent ran.
	inherited bool
	// mounted is the time of the last Mount since the agent started, by the steady clock.
	mounted time.Duration
}
