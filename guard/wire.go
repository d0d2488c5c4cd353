package guard

import (
	"time"

	"github.com/google/uuid"
)

// Version is the version of the protocol. A guard answers only requests of its own version. A guard ignores fields that
// it does not know, so a field that must not be ignored needs a new version.
const Version = 1

const (
	maxRequest = 1 << 20  // bytes, a feed of all datasets
	maxReply   = 64 << 20 // bytes, of the largest possible status
)

// The requests.
const (
	opRegister  = "register"
	opFeed      = "feed"
	opCheck     = "check"
	opThaw      = "thaw"
	opSupersede = "supersede"
	opRelease   = "release"
	opDismiss   = "dismiss"
	opStatus    = "status"
)

// request is a request of the client. Deadlines are times of the boot that Boot names.
type request struct {
	Version      int           `json:"v"`
	Boot         string        `json:"boot"`
	Op           string        `json:"op"`
	Agent        bool          `json:"agent,omitempty"` // the request comes from this host's agent, not from a person
	Registration *Registration `json:"registration,omitempty"`
	Feeds        []Feed        `json:"feeds,omitempty"`
	Dataset      uuid.UUID     `json:"dataset,omitzero"`
	Epoch        uint64        `json:"epoch,omitempty"`
	Deadline     time.Duration `json:"deadline,omitempty"`
}

// reply answers one request.
type reply struct {
	Version int                   `json:"v"`
	Failure *failure              `json:"failure,omitempty"`
	Entry   *Entry                `json:"entry,omitempty"`
	Refused map[uuid.UUID]failure `json:"refused,omitempty"`
	Status  *Status               `json:"status,omitempty"`
}

// failure is an error: its kind's code, and its line.
type failure struct {
	Code string `json:"code"`
	Text string `json:"text"`
}
