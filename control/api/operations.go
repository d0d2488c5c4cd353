package api

import (
	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// Request asks for one change of one volume, snapshot or dataset. Control makes a plan from it. The kind decides
// which fields are used.
type Request struct {
	ID   uuid.UUID      `json:"id,omitzero"` // of the operation to be; chosen by the caller, so that a retry is known
	Kind dataset.OpKind `json:"kind"`        // kind of the change
	// Volume is the spec for create, clone and import; otherwise the volume,
	// or dataset, by name or by a unique prefix of its UUID.
	Volume string `json:"volume,omitempty"`
	// Ref is Volume for create, clone and import, parsed. The plugin sets it for the requests of engines. For other
	// requests, Parsed sets it.
	Ref dataset.Reference `json:"-"`
	// options of the new volume, by name; absent: those of its profile
	Options  map[string]string `json:"options,omitempty"`
	Snapshot string            `json:"snapshot,omitempty"` // name or UUID prefix
	// of the new snapshot, or the name to restore from trash under
	Name    string `json:"name,omitempty"`
	Message string `json:"message,omitempty"` // free text that is kept with a snapshot
	Size    string `json:"size,omitempty"`    // new size, such as 10GiB
	Profile string `json:"profile,omitempty"` // set-profile
	// whether the volume is protected against deletion; absent: unchanged
	Protect *bool `json:"protect,omitempty"`
	// import; rekey: the file of the old key, if that is no more where its profile says
	Path  string `json:"path,omitempty"`
	Live  bool   `json:"live,omitempty"`  // import
	Force bool   `json:"force,omitempty"` // delete what is protected
	// create: Volume is how the asking node's engine spells it
	Engine    bool `json:"engine,omitempty"`
	Scheduled bool `json:"scheduled,omitempty"` // snapshot: for the profile's schedule
	// move: where to, by name or by a unique prefix of its UUID; empty: away
	Node string `json:"node,omitempty"`
	// move and delete with force: the home, which a person says writes no more
	Fenced string `json:"fenced,omitempty"`
	// move: only if its home is lost and the profile lets a copy take over
	Failover bool `json:"failover,omitempty"`
}

// Parsed returns the request with Ref. It is the door through which requests that make volumes come to control: from
// the CLI, and from agents on other hosts, which send a spec in the letters in which it was written. If Ref is set
// already, because agent and control are one process, nothing is parsed. An empty volume is never parsed already.
func (r Request) Parsed() Request {
	makes := r.Kind == dataset.OpCreate || r.Kind == dataset.OpClone || r.Kind == dataset.OpImport
	if makes && (r.Volume == "" || r.Ref.Spelling != r.Volume) {
		r.Ref = dataset.ParseReference(r.Volume)
	}
	return r
}

// Plan is the decision of control on a request. Exactly one field is set.
type Plan struct {
	// Done is the dataset when nothing has to be done: it is already so.
	Done *dataset.Dataset `json:"done,omitempty"`
	// Operation is what is to be done by its node's agent.
	Operation *dataset.Operation `json:"operation,omitempty"`
}

// Report is an agent's report on an operation that it carried out.
type Report struct {
	Incarnation uuid.UUID         `json:"incarnation"` // incarnation of the agent that reports
	Operation   dataset.Operation `json:"operation"`   // with the real size in Dataset or Snapshot
	// Again says that an earlier Record or Commit of the operation was sent and not answered, so it may
	// still arrive. A Commit then puts the end of the operation on record in any case, and what arrives
	// after it changes nothing.
	Again bool `json:"again,omitempty"`
}

// Committed is the recorded result of an operation.
type Committed struct {
	// Dataset is the record after the operation; nil when it is gone.
	Dataset *dataset.Dataset `json:"dataset,omitempty"`
	Index   uint64           `json:"index"` // index of the transaction that wrote the record
	// Lost says that an identical request won: Dataset is the winner's, and
	// what this operation made is to be reaped.
	Lost bool `json:"lost,omitempty"`
}

// Outcome is the answer to a request for a change.
type Outcome struct {
	Volume *Volume `json:"volume,omitempty"` // as it was when the request was taken
	// the operation that carries out the change; absent: nothing had to be done
	Operation *dataset.Operation `json:"operation,omitempty"`
}
