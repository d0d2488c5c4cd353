package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// suggestWithin bounds how long a command that already failed waits for names to suggest.
const suggestWithin = 2 * time.Second

// A suggester is a client whose not-found errors suggest the most similar existing name. It lists the names with the
// rights of the caller, and only after an error, so the server does not search all records for each wrong name.
type suggester struct {
	Remote
	now func() time.Time
}

func (s suggester) Volume(ctx context.Context, ref string) (api.Volume, error) {
	v, err := s.Remote.Volume(ctx, ref)
	return v, s.suggest(ctx, err, ref, s.volumes)
}

func (s suggester) Snapshots(ctx context.Context, ref string, p api.Page) (api.List[dataset.Snapshot], error) {
	l, err := s.Remote.Snapshots(ctx, ref, p)
	return l, s.suggest(ctx, err, ref, s.volumes)
}

func (s suggester) Snapshot(ctx context.Context, ref, snapshot string) (dataset.Snapshot, error) {
	v, err := s.Remote.Snapshot(ctx, ref, snapshot)
	if errors.Is(err, dataset.ErrNotFound) {
		if deleted := s.deletion(ctx, ref, snapshot); deleted != "" {
			return v, fmt.Errorf("%w%s", err, deleted)
		}
	}
	if ref == "" {
		return v, s.explainVolume(ctx, err, snapshot)
	}
	return v, s.suggestSnapshot(ctx, err, ref, snapshot)
}

// explainVolume adds to a not-found error about a snapshot that the word is the name of a volume.
func (s suggester) explainVolume(ctx context.Context, err error, word string) error {
	if word == "" || !errors.Is(err, dataset.ErrNotFound) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, suggestWithin)
	defer cancel()
	if v, volumeErr := s.Remote.Volume(ctx, word); volumeErr == nil {
		return fmt.Errorf("%w: that is a volume (drover snapshot ls %s lists its snapshots)", err, v.Volume)
	}
	return err
}

// deletion says when a snapshot was deleted, if a recent operation did it. Otherwise it returns "".
func (s suggester) deletion(ctx context.Context, volume, snapshot string) string {
	ctx, cancel := context.WithTimeout(ctx, suggestWithin)
	defer cancel()
	ops, err := FetchAll(ctx, s.Operations)
	if err != nil {
		return ""
	}
	if name, after, at := strings.Cut(snapshot, "@"); at && volume == "" {
		volume, snapshot = name, after
	}
	var last dataset.Operation
	for _, op := range ops {
		if op.Kind != dataset.OpSnapshotDelete || op.State != dataset.OpDone || op.Snapshot == nil ||
			op.Ended.Before(last.Ended) {
			continue
		}
		isID := dataset.CheckPrefix(strings.ToLower(snapshot)) == nil &&
			strings.HasPrefix(op.Snapshot.ID.String(), strings.ToLower(snapshot))
		if isID || op.Snapshot.Name == snapshot && op.Volume == volume {
			last = op
		}
	}
	if last.Snapshot == nil {
		return ""
	}
	return fmt.Sprintf("; snapshot %s of volume %s was deleted %s, by operation %s", last.Snapshot.ID, last.Volume,
		Ago(s.now(), last.Ended), last.ID)
}

func (s suggester) Export(ctx context.Context, ref, snapshot string, w io.Writer) (api.OmittedFiles, error) {
	l, err := s.Remote.Export(ctx, ref, snapshot, w)
	return l, s.suggestSnapshot(ctx, err, ref, snapshot)
}

func (s suggester) Submit(ctx context.Context, req api.Request) (api.Outcome, error) {
	out, err := s.Remote.Submit(ctx, req)
	switch req.Kind {
	case dataset.OpClone:
		err = s.suggest(ctx, err, req.Options["from"], s.volumes)
	case dataset.OpPurge, dataset.OpUndelete:
		err = s.suggest(ctx, err, req.Volume, func(ctx context.Context) ([]string, error) {
			return volumeNames(ctx, s.Remote.Trash)
		})
	default:
		if req.Volume == "" {
			err = s.explainVolume(ctx, err, req.Snapshot)
		}
		err = s.suggestSnapshot(ctx, err, req.Volume, req.Snapshot)
	}
	return out, err
}

func (s suggester) suggestSnapshot(ctx context.Context, err error, volume, snapshot string) error {
	err = s.suggest(ctx, err, volume, s.volumes)
	if volume == "" {
		return err
	}
	return s.suggest(ctx, err, snapshot, func(ctx context.Context) ([]string, error) {
		list, err := FetchAll(ctx, SnapshotsOf(s.Remote, volume))
		var names []string
		for _, v := range list {
			if v.Name != "" {
				names = append(names, v.Name)
			}
		}
		return names, err
	})
}

// suggest adds the most similar name to a not-found error. It returns the error unchanged if no name is similar, if the
// name exists, or if the names cannot be listed.
func (s suggester) suggest(
	ctx context.Context, err error, word string, list func(context.Context) ([]string, error)) error {
	if word == "" || !errors.Is(err, dataset.ErrNotFound) || strings.Contains(err.Error(), "did you mean") ||
		!strings.Contains(err.Error(), strconv.Quote(word)) { // another name was not found
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, suggestWithin)
	defer cancel()
	names, listErr := list(ctx)
	if listErr != nil || slices.Contains(names, word) {
		return err
	}
	if hint := dataset.Suggestion(word, names); hint != "" {
		return fmt.Errorf("%w%s", err, hint)
	}
	return err
}

func (s suggester) volumes(ctx context.Context) ([]string, error) {
	return volumeNames(ctx, s.Remote.Volumes)
}

func volumeNames(
	ctx context.Context, page func(context.Context, api.Page) (api.List[api.Volume], error)) ([]string, error) {
	list, err := FetchAll(ctx, page)
	var names []string
	for _, v := range list {
		names = append(names, v.Volume)
	}
	return names, err
}
