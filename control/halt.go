package control

import (
	"context"

	"github.com/droverhq/drover/control/record"
)

// Halted returns why changes are suspended, because the store is inconsistent; "" if they are not.
func (s *Service) Halted(ctx context.Context) (why string, err error) {
	var h record.Halt
	there, err := record.NewTx(ctx, s.store).Peek(record.HaltedKey, &h)
	if err != nil || !there {
		return "", err
	}
	return h.Err().Error(), nil
}
