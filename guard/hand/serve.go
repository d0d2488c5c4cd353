package hand

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
)

// maxMessage is the maximum size of a message between the guard and its hand, in bytes. The largest message is the
// answer to a load: it contains all records of a guard.
const maxMessage = 64 << 20

const (
	opFreeze      = "freeze"
	opStop        = "stop"
	opKill        = "kill"
	opKillHolders = "kill-holders"
	opCondemn     = "condemn"
	opUndo        = "undo"
	opBind        = "bind"
	opSave        = "save"
	opLoad        = "load"
)

type request struct {
	Seq    uint64          `json:"seq"`
	Op     string          `json:"op"`
	Target Target          `json:"target,omitzero"`
	Budget time.Duration   `json:"budget,omitempty"`
	Record json.RawMessage `json:"record,omitempty"`
}

type answer struct {
	Seq        uint64                        `json:"seq"`
	Code       string                        `json:"code,omitempty"`
	Error      string                        `json:"error,omitempty"`
	Outcome    Outcome                       `json:"outcome,omitzero"`
	Filesystem mount.Filesystem              `json:"filesystem,omitzero"`
	Records    map[uuid.UUID]json.RawMessage `json:"records,omitempty"`
}

// Serve reads requests from conn and performs each in a separate goroutine, until conn ends. Then it
// cancels the acts that run and waits for them. An act that waits in the kernel is finished and recorded
// before Serve returns. The error is nil if the guard has closed the connection or has ended.
func Serve(conn io.ReadWriter, t *Tool) error {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer t.Wait()
	defer wg.Wait()
	defer cancel()
	var mu sync.Mutex
	for {
		var r request
		if err := ReadFrame(conn, &r, maxMessage); err != nil {
			// The connection is reset if the guard was killed before it read an answer.
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, unix.ECONNRESET) {
				return nil
			}
			return err
		}
		wg.Go(func() {
			a := t.perform(ctx, r)
			a.Seq = r.Seq
			mu.Lock()
			defer mu.Unlock()
			_ = WriteFrame(conn, a, maxMessage) // if the guard has ended, the next read fails
		})
	}
}

func (t *Tool) perform(ctx context.Context, r request) (a answer) {
	if r.Budget > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.Budget)
		defer cancel()
	}
	var err error
	switch r.Op {
	case opFreeze:
		a.Outcome = t.Freeze(ctx, r.Target)
	case opStop:
		a.Outcome = t.Stop(ctx, r.Target)
	case opKill:
		a.Outcome = t.Kill(ctx, r.Target)
	case opKillHolders:
		a.Outcome = t.KillHolders(ctx, r.Target)
	case opCondemn:
		a.Outcome = t.Condemn(ctx, r.Target)
	case opUndo:
		err = t.Undo(ctx, r.Target)
	case opBind:
		a.Filesystem, err = t.Bind(r.Target)
	case opSave:
		err = t.Save(r.Target.Dataset, r.Record)
	case opLoad:
		var records map[uuid.UUID][]byte
		records, err = t.Load()
		a.Records = make(map[uuid.UUID]json.RawMessage, len(records))
		for id, b := range records {
			if !json.Valid(b) {
				b = nil // sent as null, which says that there is a record and that it is damaged
			}
			a.Records[id] = b
		}
	default:
		err = dataset.Errorf(dataset.ErrInvalid, "unknown operation %q", dataset.Clip(r.Op))
	}
	if err != nil {
		a.Code, a.Error = dataset.KindOf(err).Code, dataset.OneLine(err)
	}
	return a
}
