// Package certificates has the commands of drover ca, which work on the certificate authority of a cluster. Package
// main adds them to the command tree. drover ca revoke calls the API. The other commands change the folder of the
// authority, which is the only state. Package pki locks the folder during a change. drover ca issue also writes the
// certificate to the folder of --out.
package certificates
