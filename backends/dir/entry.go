package dir

import (
	"context"
	"errors"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
)

// describeFolder adds to an entry its snapshots, and what is wrong with them.
func describeFolder(f *shelf.Folder, e *backends.Entry) {
	names, err := shelf.ReadNames(f.Root, ".")
	if err != nil {
		shelf.AddProblem(e, err)
		return
	}
	now, err := head(f)
	if err == nil {
		_, err = f.Lstat(now)
	}
	if err != nil {
		shelf.AddProblem(e, err)
	}
	for _, name := range names {
		id, ok := snapshotOf(name)
		if !ok {
			continue
		}
		s, err := readSnapshot(f, id)
		switch {
		case err == nil:
			e.Snapshots = append(e.Snapshots, s.Snapshot)
		case !errors.Is(err, dataset.ErrNotFound):
			shelf.AddProblem(e, err)
		}
	}
}

// snapshotOf returns the snapshot whose record has that name.
func snapshotOf(name string) (uuid.UUID, bool) {
	text, ok := strings.CutSuffix(strings.TrimPrefix(name, snapPrefix), recordEnd)
	id, err := uuid.Parse(text)
	return id, ok && err == nil && name == recordOf(id)
}

// tidy removes what a crash left in a folder: temporary files, the record of a
// restore that was not finished, and trees that are neither the head nor a
// snapshot's. Where a record cannot be read no tree is removed: it may be its.
func tidy(ctx context.Context, f *shelf.Folder) (int, error) {
	names, err := shelf.ReadNames(f.Root, ".")
	if err != nil {
		return 0, err
	}
	now, err := head(f)
	if err != nil {
		return 0, nil // List says so
	}
	used, sure := map[string]bool{now: true}, true
	var doomed []string
	for _, name := range names {
		id, ok := snapshotOf(name)
		if !ok {
			continue
		}
		s, err := readSnapshot(f, id)
		switch {
		case err == nil:
			used[s.Tree] = true
		case errors.Is(err, dataset.ErrNotFound):
			doomed = append(doomed, name)
		default:
			sure = false
		}
	}
	for _, name := range names {
		if strings.HasPrefix(name, shelf.Temp) || (sure && isTree(name) && !used[name]) {
			doomed = append(doomed, name)
		}
	}
	return len(doomed), removeAll(ctx, f, doomed...)
}
