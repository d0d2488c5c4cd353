package profiles

import (
	"strconv"
	"strings"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/strictyaml"
)

// warnAt reads a percentage such as 85%. The default is recorded as 0, so that a profile that names it has the same
// revision as one that leaves it out.
func warnAt(n strictyaml.Node, into *int) error {
	s, err := n.Scalar()
	if err != nil {
		return err
	}
	digits, isPercent := strings.CutSuffix(s, "%")
	percent, err := strconv.Atoi(digits)
	if !isPercent || err != nil || percent < 1 || percent > 100 || strconv.Itoa(percent) != digits {
		return n.Errorf("bad percentage %q: expected 1%% to 100%%, such as 85%%", dataset.Clip(s))
	}
	if percent != dataset.DefaultWarnAt {
		*into = percent
	}
	return nil
}
