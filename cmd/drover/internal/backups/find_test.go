package backups

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

// silent is a cluster in which the repository bad does not answer.
type silent struct{ cli.Remote }

func (silent) Repositories(context.Context) ([]dataset.Repository, error) {
	return []dataset.Repository{{Name: "bad"}, {Name: "good"}}, nil
}

func (silent) VolumeBackups(ctx context.Context, repository, _ string) (out api.BackupList, err error) {
	if repository == "good" {
		return api.BackupList{Items: []api.VolumeBackup{{ID: "0123456789abcdef"}}}, nil
	}
	<-ctx.Done()
	return out, ctx.Err()
}

func TestSilentRepositoryHidesNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		list, incomplete, err := fetch(t.Context(), silent{}, "", "")
		require.NoError(t, err)
		require.ErrorIs(t, incomplete, dataset.ErrOffline)
		if len(list) != 1 {
			t.Errorf("got %+v", list)
		}
	})
}
