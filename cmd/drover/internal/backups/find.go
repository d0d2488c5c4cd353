package backups

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// referenceHelp says in the help of a command how an argument names a backup.
const referenceHelp = `BACKUP is the ID of a backup, or its first
digits, at least 4 of them.`

// fetch returns the backups of a volume or, if volume is empty, of all volumes, oldest first: those in one repository
// or, if repository is empty, in all recorded ones. If a part of the backups cannot be read, fetch returns the others,
// and incomplete says why. It fails if no repository can be read.
func fetch(ctx context.Context, c cli.Remote, repository, volume string) (list []api.VolumeBackup,
	incomplete, err error) {
	names := []string{repository}
	if repository == "" {
		recorded, err := c.Repositories(ctx)
		if err != nil {
			return nil, nil, err
		}
		names = nil
		for _, r := range recorded {
			names = append(names, r.Name)
		}
	}
	failed := 0
	for _, name := range names {
		l, err := c.VolumeBackups(ctx, name, volume)
		if err != nil {
			failed++
		} else {
			err = l.Problem.Err()
		}
		if incomplete == nil {
			incomplete = err
		}
		list = append(list, l.Items...)
	}
	if failed > 0 && failed == len(names) {
		return nil, nil, incomplete
	}
	slices.SortStableFunc(list, func(x, y api.VolumeBackup) int { return x.Taken.Compare(y.Taken) })
	return list, incomplete, nil
}

// minDigits is how many digits of an ID an argument must have. With fewer, a typing error could name a backup.
const minDigits = 4

// find returns the backup whose ID begins with the given digits, in one repository or, if repository is empty, in all
// recorded ones. It fails with dataset.ErrNotFound if there is none, and with dataset.ErrAmbiguous if there are
// several.
func find(ctx context.Context, c cli.Remote, repository, id string) (api.VolumeBackup, error) {
	if !regexp.MustCompile(fmt.Sprintf("^[0-9a-fA-F]{%d,64}$", minDigits)).MatchString(id) {
		return api.VolumeBackup{}, dataset.Errorf(dataset.ErrInvalid, "bad ID of a backup %q: expected at least %d "+
			"hexadecimal digits (drover backup ls shows the IDs)", dataset.Clip(id), minDigits)
	}
	list, incomplete, err := fetch(ctx, c, repository, "")
	if err != nil {
		return api.VolumeBackup{}, err
	}
	var found []api.VolumeBackup
	for _, b := range list {
		if strings.HasPrefix(b.ID, strings.ToLower(id)) {
			found = append(found, b)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return api.VolumeBackup{}, dataset.Errorf(dataset.ErrAmbiguous, "%d backups have IDs that begin with %s (use "+
			"more digits)", len(found), dataset.Clip(id))
	case incomplete != nil:
		return api.VolumeBackup{}, fmt.Errorf("no backup that can be read has an ID that begins with %s: %w",
			dataset.Clip(id), incomplete)
	}
	return api.VolumeBackup{}, dataset.Errorf(dataset.ErrNotFound,
		"no such backup: %s (drover backup ls shows the IDs)", dataset.Clip(id))
}
