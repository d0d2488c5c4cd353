package reports

import (
	"cmp"
	"encoding/json"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// Limits for the reports of one node. They protect control against a stolen certificate of a node.
const (
	MaxPools      = 256       // of one node, including those that it no longer reports
	MaxReported   = 20_000    // datasets, copies or operations in a heartbeat; agents send 500
	MaxRemembered = 200_000   // datasets, or copies, of one node that are remembered
	maxMounts     = 10_000    // mount IDs of a dataset
	MaxFound      = 100_000   // datasets in a rebuild, and snapshots of each
	MaxRaised     = 1 << 53   // generation of a pool; low enough that it can always be raised
	MaxRecord     = 128 << 10 // bytes of a report on one node, pool, dataset or snapshot
)

// CheckCount fails with dataset.ErrInvalid if n is larger than most. who and what describe the reporter and the counted
// things in the error.
func CheckCount(who string, n, most int, what string) error {
	if n <= most {
		return nil
	}
	return dataset.Errorf(dataset.ErrInvalid, "%s: %d %s (%d at most)", who, n, what, most)
}

// checkLine fails with dataset.ErrInvalid if a line is too long.
func checkLine(who, what, text string) error {
	if len(text) <= dataset.MaxLine {
		return nil
	}
	return dataset.Errorf(dataset.ErrInvalid, "%s: %s takes %d bytes (%d at most)", who, what, len(text),
		dataset.MaxLine)
}

// CheckHeartbeat fails with dataset.ErrInvalid for a heartbeat that is too large.
func CheckHeartbeat(n dataset.Node, h api.Heartbeat) error {
	who := "heartbeat of node " + n.Name
	err := cmp.Or(
		CheckCount(who, len(h.Pools)+len(h.FailedPools), MaxPools, "pools"),
		CheckCount(who, len(h.Datasets), MaxReported, "datasets"),
		CheckCount(who, len(h.Copies), MaxReported, "copies"),
		CheckCount(who, len(h.Operations), MaxReported, "operations"),
		checkLine(who, "the reason why it does not trust the store", h.StoreDoubt),
	)
	if h.Found != nil {
		err = cmp.Or(err, CheckCount(who, len(h.Found.Findings), api.MaxReportedFindings, "findings"))
		for _, f := range h.Found.Findings {
			err = cmp.Or(err, checkLine(who, "a finding", f.Condition+f.Level+f.Subject+f.Text+f.Fix))
		}
	}
	for _, p := range h.Pools {
		err = cmp.Or(err, checkLine(who, "the reason for the state of pool "+p.ID.String(), p.Reason))
	}
	for _, p := range h.FailedPools {
		if err = cmp.Or(err, CheckRecord(who, "the report on pool "+dataset.Clip(p.Name), p)); p.Status != nil {
			err = cmp.Or(err, checkLine(who, "the reason for the state of pool "+dataset.Clip(p.Name), p.Status.Reason))
		}
	}
	for _, op := range h.Operations {
		err = cmp.Or(err, checkLine(who, "the step of operation "+op.ID.String(), op.Progress.Step))
	}
	for _, c := range h.Copies {
		what := "its copy of dataset " + c.Dataset.String()
		err = cmp.Or(err, checkLine(who, "the kind of "+what, string(c.Kind)),
			checkLine(who, "the problem of "+what, c.Problem))
	}
	for _, d := range h.Datasets {
		err = cmp.Or(err, CheckDataset(who, d))
	}
	return err
}

// CheckDataset fails with dataset.ErrInvalid for a status that is too large.
func CheckDataset(who string, d dataset.DatasetStatus) error {
	err := cmp.Or(CheckCount(who, len(d.Mounts), maxMounts, "mount IDs of dataset "+d.ID.String()),
		checkLine(who, "the problem of dataset "+d.ID.String(), d.Problem),
		checkLine(who, "the path of dataset "+d.ID.String(), d.MountPath))
	for _, m := range d.Mounts {
		if len(m.ID) > dataset.MaxMountID {
			err = cmp.Or(err, dataset.Errorf(dataset.ErrInvalid, "%s: a mount ID of %d bytes (%d at most)", who,
				len(m.ID), dataset.MaxMountID))
		}
		err = cmp.Or(err, checkNames(who, d.ID, m.Names))
	}
	return cmp.Or(err, checkNames(who, d.ID, d.EngineAliases))
}

// checkNames fails with dataset.ErrInvalid for too many names of a volume, or too long ones.
func checkNames(who string, id uuid.UUID, names []string) error {
	err := CheckCount(who, len(names), dataset.MaxEngineNames, "names of dataset "+id.String())
	for _, name := range names {
		err = cmp.Or(err, checkLine(who, "a name of dataset "+id.String(), name))
	}
	return err
}

// CheckRecord fails with dataset.ErrInvalid for a record that would be too large.
func CheckRecord(who, what string, v any) error {
	b, err := json.Marshal(v)
	if err == nil && len(b) > MaxRecord {
		err = dataset.Errorf(dataset.ErrInvalid, "%s: %s takes %d bytes (%d at most)", who, what, len(b), MaxRecord)
	}
	return err
}

// CheckHoldings fails with dataset.ErrInvalid for a node's report in a recovery that is too large.
func CheckHoldings(node string, h api.Holdings) error {
	who := "holdings of node " + node
	err := cmp.Or(
		CheckCount(who, len(h.ExaminedPools), MaxPools, "pools"),
		CheckCount(who, len(h.Copies), MaxRemembered, "copies"),
		CheckCount(who, len(h.Relinquished), MaxRemembered, "relinquished epochs"),
	)
	if err != nil {
		return err
	}
	for _, c := range h.Copies {
		if err := CheckRecord(who, "copy of dataset "+c.Dataset.String(), c); err != nil {
			return err
		}
	}
	return CheckFound(who, h.Datasets)
}

// CheckFound fails with dataset.ErrInvalid for a list of found datasets that is too large.
func CheckFound(who string, found []api.FoundDataset) error {
	err := CheckCount(who, len(found), MaxFound, "datasets")
	for _, f := range found {
		if err = cmp.Or(err, CheckCount(who, len(f.Snapshots), MaxFound,
			"snapshots of dataset "+f.Dataset.ID.String())); err != nil {
			return err
		}
		err = CheckRecord(who, "dataset "+f.Dataset.ID.String(), f.Dataset)
		for _, s := range f.Snapshots {
			err = cmp.Or(err, CheckRecord(who, "snapshot "+s.ID.String(), s))
		}
	}
	return err
}
