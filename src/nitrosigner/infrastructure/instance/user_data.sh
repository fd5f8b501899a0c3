#!/bin/bash
# Fetch what the stack ships, check that it is what the stack was made with, and hand
# over to its install.sh. @NAMES@ are filled in by infrastructure/user_data.py.
# Whatever fails here gives the instance up: it never serves, and another one is tried.
set -Eeuo pipefail
umask 077

export AWS_DEFAULT_REGION='@REGION@'

give_up() {
    local line=$1 token instance
    trap - ERR
    echo "nitrosigner: installation failed at line $line of user data" | tee /dev/console >&2
    token=$(curl -sS -m 5 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token)
    instance=$(curl -sS -m 5 -H "X-aws-ec2-metadata-token: $token" http://169.254.169.254/latest/meta-data/instance-id)
    # The log goes out now: the instance will be gone in a minute.
    tail -n 50 /var/log/cloud-init-output.log >/dev/console 2>&1 || true
    aws autoscaling complete-lifecycle-action --lifecycle-action-result ABANDON \
        --instance-id "$instance" --auto-scaling-group-name '@GROUP@' --lifecycle-hook-name '@HOOK@'
    exit 1
}
trap 'give_up $LINENO' ERR

install -d -m 0755 /opt/nitrosigner /etc/nitrosigner
cd /opt/nitrosigner
@INSTALL@
rpm -q system-release @PACKAGES@
aws s3 cp --only-show-errors 's3://@PARENT_BUCKET@/@PARENT_KEY@' parent.zip
aws s3 cp --only-show-errors 's3://@IMAGE_BUCKET@/@IMAGE_KEY@' enclave.eif
sha256sum --check --strict --quiet <<'EOF'
@PARENT_SHA256@  parent.zip
@IMAGE_SHA256@  enclave.eif
EOF

cat >/etc/nitrosigner/deployed.json <<'EOF'
@DEPLOYED@
EOF

python3.11 -P -m zipfile -e parent.zip parent
bash parent/instance/install.sh
